"""Method "nme": with a linear network it is the linear mixed model."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import pylmernn
from pylmernn.engines import nme, nme_model, nme_settle
from pylmernn.engines.control import Control
from pylmernn.engines.nme_posterior import Groups, factor_of, posterior
from pylmernn.engines.nme_reduced import reduced_factor
from pylmernn.engines.nme_training import chunks_of
from pylmernn.formula import build
from pylmernn.formula.design import DesignError
from pylmernn.training.options import Training

ORTHODONT = pd.read_csv("tests/golden/data/Orthodont.csv.gz")
SLEEP = pylmernn.datasets.load("sleepstudy")
CASES = [(ORTHODONT, "distance", "age"), (SLEEP, "Reaction", "Days")]


def settings(epochs, **more):
    return Control(training=Training(epochs=epochs, **more))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("width", [2, 9])
def test_posterior_against_dense_algebra(diagonal, width):
    rng = np.random.default_rng(width)
    codes = np.repeat(np.arange(5, dtype=np.int32), [1, 3, 4, 12, 2])
    n, q, sigma2 = len(codes), 6, 0.7  # the last group has no rows
    J, r = rng.normal(size=(n, width)), rng.normal(size=n)
    root = rng.normal(size=(width, width))
    Sigma = np.diag(np.diagonal(root @ root.T)) if diagonal else root @ root.T
    given = torch.from_numpy(np.diagonal(Sigma).copy() if diagonal else Sigma)
    factor = factor_of(given)
    found = posterior(*map(torch.from_numpy, (J, r)), factor, sigma2, Groups(codes, q, width), variances=True)
    variances = found.effect_variances(factor)
    second, squares, deviance = np.zeros_like(Sigma), 0.0, 0.0
    for i in range(q):
        Ji, ri = J[codes == i], r[codes == i]
        V = Ji @ Sigma @ Ji.T + sigma2 * np.eye(len(ri))
        eta = Sigma @ Ji.T @ np.linalg.solve(V, ri)
        spread = Sigma - Sigma @ Ji.T @ np.linalg.solve(V, Ji @ Sigma)
        np.testing.assert_allclose(found.effects[i], eta, atol=1e-10)
        np.testing.assert_allclose(variances[i], np.diagonal(spread) if diagonal else spread, atol=1e-9)
        if len(ri):
            second += (np.outer(eta, eta) + spread) / (q - 1)
        squares += np.sum((ri - Ji @ eta) ** 2) + np.trace(Ji @ spread @ Ji.T)
        deviance += len(ri) * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + ri @ np.linalg.solve(V, ri)
    np.testing.assert_allclose(found.second, np.diagonal(second) if diagonal else second, rtol=1e-9)
    assert found.squares == pytest.approx(squares, rel=1e-10)
    assert found.deviance == pytest.approx(deviance, rel=1e-10)


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize("data, y, x", CASES)
def test_a_linear_network_is_the_linear_mixed_model(data, y, x, REML):
    linear = pylmernn.lmernn(f"{y} ~ {x} + (1 + {x} | Subject)", data, REML=REML)
    fit = pylmernn.lmernn(
        f"{y} ~ nn({x}, hidden=c(), standardize=FALSE) + (nn | Subject)", data, REML=REML, control=settings(3)
    )
    np.testing.assert_allclose(fit.fixef().iloc[:2], linear.fixef(), rtol=1e-5)
    order = [1, 0]  # the bias comes last
    np.testing.assert_allclose(
        fit.VarCorr()["Subject"].to_numpy()[np.ix_(order, order)], linear.VarCorr()["Subject"], rtol=1e-3
    )
    assert fit.sigma() == pytest.approx(linear.sigma(), rel=1e-4)
    assert fit.estimates.objective == pytest.approx(linear.estimates.objective, abs=1e-4)
    assert fit.logLik().df == linear.logLik().df
    np.testing.assert_allclose(fit.fitted(), linear.fitted(), rtol=1e-4)
    ours, theirs = (each.ranef(condVar=True).condsd()["Subject"].to_numpy() for each in (fit, linear))
    np.testing.assert_allclose(ours[:, order], theirs, rtol=1e-3)


@pytest.mark.parametrize("data, y, x", CASES)
def test_so_is_the_linearisation(data, y, x, monkeypatch):
    def select(*arguments):  # as if the network bent in its deviations
        return dataclasses.replace(chosen(*arguments), linear=False)

    chosen = nme_model.select
    monkeypatch.setattr(nme_model, "select", select)
    scaled = data.assign(z=(data[x] - data[x].mean()) / data[x].std(ddof=0))
    linear = pylmernn.lmernn(f"{y} ~ z + (z | Subject)", scaled, REML=False)
    design, _ = build(f"{y} ~ nn(z, hidden=c(), standardize=FALSE) + (nn | Subject)", scaled)
    found = nme.fit(design, False, settings(40, weight_decay=0.0, validation=0.0))
    assert not found.exact
    order = [1, 0]
    np.testing.assert_allclose(
        (found.factor @ found.factor.T)[np.ix_(order, order)], linear.VarCorr()["Subject"], rtol=0.01
    )
    assert found.sigma == pytest.approx(linear.sigma(), rel=0.005)
    slope = found.networks.members[0][0]["mlp.layers.0.weight"].item()
    np.testing.assert_allclose([found.beta[0], slope], linear.fixef(), rtol=0.01)
    assert found.objective == pytest.approx(linear.estimates.objective, abs=0.05)


@pytest.mark.parametrize("seed", [1, 3])  # with other starts than torch's, 3 does not get there in 200 steps
def test_the_paper_has_smaller_variances(seed):
    """The authors' example: estimates within a standard error of REML, which is all that it asks for."""
    z = ORTHODONT.assign(**{c: (ORTHODONT[c] - ORTHODONT[c].mean()) / ORTHODONT[c].std() for c in ("age", "distance")})
    formula = "distance ~ nn(age, hidden=c(), standardize=FALSE) + (nn | Subject)"
    fit = pylmernn.lmernn(formula, z, seed=seed, control=settings(200, preset="faithful"))
    slope, intercept = fit.fixef().iloc[[1, 0]]
    assert slope == pytest.approx(0.50642, abs=0.0547)
    assert intercept == pytest.approx(0.0, abs=0.1467)
    found = fit.VarCorr()["Subject"].to_numpy()
    assert found[1, 1] == pytest.approx(0.53113, abs=0.44)
    if seed == 1:
        modes = fit.ranef()["Subject"].var()
        assert modes.iloc[1] == pytest.approx(0.4858, rel=0.15)  # of the REML fit's modes
        assert fit.sigma() ** 2 < 0.20011  # no posterior variance is added


def bending(seed, groups=40, per_group=15):
    """Curves whose phase and height differ by group."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), per_group)
    x = rng.uniform(-2, 2, len(g))
    height, phase = 1 + 0.5 * rng.normal(size=groups), 0.6 * rng.normal(size=groups)
    f = height[g] * np.sin(1.5 * x + phase[g])
    return pd.DataFrame({"y": f + 0.2 * rng.normal(size=len(g)), "x": x, "g": g, "f": f})


@pytest.mark.parametrize("bar, most", [("nn.last", 0.35), ("nn", 0.35), ("nn.first", 0.6)])
def test_curves_of_groups_are_found(bar, most):
    data = bending(1)
    fit = pylmernn.lmernn(f"y ~ nn(x, hidden=c(8)) + ({bar} | g)", data, seed=1, control=settings(40))
    generic = np.sqrt(np.mean((fit.predict(data, re_form="NA") - data.f) ** 2))
    own = np.sqrt(np.mean((fit.predict(data) - data.f) ** 2))
    assert own < most * generic
    np.testing.assert_allclose(fit.predict(data), fit.fitted(), rtol=1e-5, atol=1e-5)


def test_prior_weights():
    times = np.random.default_rng(0).integers(1, 4, len(ORTHODONT))
    data = ORTHODONT.assign(w=times / times.mean())
    formula = "distance ~ nn(age, hidden=c(), standardize=FALSE) + (nn | Subject)"
    fit = pylmernn.lmernn(formula, data, weights="w", REML=False, control=settings(2))
    linear = pylmernn.lmernn("distance ~ age + (age | Subject)", data, weights="w", REML=False)
    assert fit.estimates.objective == pytest.approx(linear.estimates.objective, abs=1e-4)
    assert fit.logLik().df == linear.logLik().df


def test_the_same_seed_gives_the_same_fit():
    data = bending(2, 10, 8)
    fits = [pylmernn.lmernn("y ~ nn(x, hidden=c(3)) + (nn | g)", data, seed=4, control=settings(5)) for _ in range(2)]
    pd.testing.assert_series_equal(fits[0].fitted(), fits[1].fitted())


def test_reduced_rank_step_minimises_its_criterion():
    rng = np.random.default_rng(3)
    codes = torch.from_numpy(np.repeat(np.arange(8), 6))
    J, r, U = (torch.from_numpy(rng.normal(size=size)) for size in ((48, 5), (48,), (5, 2)))
    found = posterior(J, r, U, 0.5, Groups(codes.numpy().astype(np.int32), 8, 5), variances=True)
    for _ in range(20):  # of conjugate gradients, each from where the last one ended
        U = reduced_factor(J, r, codes, U, found, 0.5, 3.0)
    U.requires_grad_(True)
    mean, spread = found.scores[codes], found.score_variances[codes]
    image = J @ U
    squares = ((r - (image * mean).sum(1)) ** 2).sum() + torch.einsum("nk,nkl,nl->", image, spread, image)
    (gradient,) = torch.autograd.grad(squares / 0.5 + 3.0 * (U**2).sum(), U)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(("rows", "rank"), [(20, 6), (200, 12), (2000, 20)])
def test_more_rows_a_group_allow_more_dimensions(rows, rank):
    assert nme_model.usual_rank(100 * rows, 100) == rank


def test_reduced_rank_is_asked_for_as_in_glmmTMB():
    data = bending(3, 12, 8)
    fit = pylmernn.lmernn("y ~ nn(x, hidden=c(4)) + rr(nn | g, d = 2)", data, seed=1, control=settings(5))
    assert fit.estimates.factor.shape == (13, 2)
    assert f"Deviations of rank {np.linalg.matrix_rank(fit.estimates.factor)}" in str(fit)  # 2, but for a singular fit
    assert fit.estimates.variances.shape == (12, 13)
    with pytest.raises(DesignError, match="rr\\(\\) takes a rank"):
        pylmernn.lmernn("y ~ nn(x) + rr(nn | g, d = 0)", data)
    with pytest.raises(DesignError, match="of the parameters of a network only"):
        pylmernn.lmernn("y ~ x + rr(1 | g, d = 2)", data)


def test_parts_settle_where_all_groups_do(monkeypatch):
    """With the same network, in a linear model, where EM has one end."""
    design, _ = build("Reaction ~ nn(Days, hidden=c()) + (nn || Subject)", SLEEP)
    found = []
    for portion in (10**6, 40):
        model = nme_model.VaryingModel(design, settings(3))
        nme.train(model, None)
        monkeypatch.setattr(nme_model, "PORTION", portion)
        found.append(nme_settle.settle(model))
        monkeypatch.setattr(nme_model, "PORTION", 10**6)
    assert found[1].sigma == pytest.approx(found[0].sigma, rel=0.005)
    np.testing.assert_allclose(found[1].factor, found[0].factor, rtol=0.02)
    assert found[1].objective == pytest.approx(found[0].objective, abs=0.05)


def test_variances_do_not_depend_on_the_parts(monkeypatch):
    design, _ = build("y ~ nn(x, hidden=c(4)) + (nn | g)", bending(5, 40, 12))
    whole = nme.fit(design, False, settings(40))
    monkeypatch.setattr(nme_model, "PORTION", 2000)
    found = nme.fit(design, False, settings(40))
    assert found.sigma == pytest.approx(whole.sigma, rel=0.05)  # 0.41 against 0.21 where a part alone moved all


def test_nothing_varies_where_groups_are_alike():
    data = bending(6, 40, 5)
    data["y"] = np.sin(1.5 * data.x) + 0.3 * np.random.default_rng(6).normal(size=len(data))
    fit = pylmernn.lmernn("y ~ nn(x, hidden=c(8)) + (nn.last | g)", data, seed=1, control=settings(40))
    deviations = np.std(fit.predict(data) - fit.predict(data, re_form="NA"))
    assert deviations < 0.1
    assert fit.sigma() == pytest.approx(0.3, rel=0.1)


def test_portions_share_out_the_groups(monkeypatch):
    design, _ = build("y ~ nn(x, hidden=c(4)) + (nn || g)", bending(5, 40, 12))
    whole = nme.fit(design, False, settings(40))
    monkeypatch.setattr(nme_model, "PORTION", 2000)
    parts = nme_model.VaryingModel(design, settings(3)).portions(torch.arange(design.n))
    assert len(parts) > 3
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(design.n))
    assert sum(groups.present for _, groups in parts) == 40
    found = nme.fit(design, False, settings(40))
    assert np.corrcoef(found.fitted, whole.fitted)[0, 1] > 0.9
    assert (found.variances <= found.prior_variances + 1e-9).all()


def test_chunks_hold_every_row_once():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 7, 100).astype(np.int32)
    rows = np.arange(0, 100, 2)
    for size in (1, 4):
        found, groups = chunks_of(codes, rows, size, rng)
        assert sorted(found[found >= 0].tolist()) == rows.tolist()
        assert all((codes[own[own >= 0]] == group).all() for own, group in zip(found, groups, strict=True))


@pytest.mark.parametrize(
    "formula, message",
    [
        ("y ~ nn(x, hidden=c(3)) + (nn.layers.7.bias | g)", "no parameter 'layers.7.bias'"),
        ("y ~ nn(x, hidden=c(3), normalization='batch') + (nn | g)", "use normalization='layer'"),
        ("y ~ nn(x) + nn(x, net='b') + (nn | g)", "where it is the only one"),
    ],
)
def test_bad_models(formula, message):
    nets = {"b": {"hidden": (2,)}} if "net=" in formula else None
    with pytest.raises(DesignError, match=message):
        pylmernn.lmernn(formula, bending(0, 5, 5), nets=nets)


def test_methods_and_bars_belong_together():
    data = bending(0, 5, 5)
    with pytest.raises(DesignError, match="only method 'nme'"):
        pylmernn.lmernn("y ~ nn(x) + (nn | g)", data, method="alternating")
    with pytest.raises(DesignError, match="add a bar such as"):
        pylmernn.lmernn("y ~ nn(x) + (1 | g)", data, method="nme")
