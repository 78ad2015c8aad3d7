"""The Python half of the R door, called as R calls it."""

import json

import numpy as np
import pytest

from pylmernn import rdoor
from pylmernn.engines import exact, nme, pirls, profiled
from pylmernn.engines.control import Control
from pylmernn.engines.pirls_variances import fixed_covariance
from pylmernn.engines.variances import prediction_variance
from pylmernn.families import read_family
from pylmernn.formula.design import NetTerm, NewRows, NewTerm, RandomTerm, make_design
from pylmernn.formula.varying import VaryingTerm
from pylmernn.training.options import Training

RNG = np.random.default_rng(1)
N, Q = 120, 12
CODES = np.arange(N, dtype=np.int32) % Q
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = X @ [1.0, 2.0] + RNG.normal(size=Q)[CODES] + 0.5 * RNG.normal(size=N)


def as_bytes(*arrays):
    return [bytearray(np.asarray(array).ravel(order="F").tobytes()) for array in arrays]


def meta(**changes):
    term = {"group": "g", "n_levels": Q, "names": ["(Intercept)", "x"], "covariance": "us", "label": "(x | g)"}
    base = {"n": N, "response": "y", "fixed_names": ["(Intercept)", "x"], "weights": False, "offset": False}
    base |= {"terms": [term | {"constant": False}], "REML": True, "method": "auto", "control": None, "condVar": True}
    return base | changes


def decoded(reply):
    header = json.loads(reply[0])
    assert "error" not in header
    return header, dict(zip(header["arrays"], (np.frombuffer(body) for body in reply[1:]), strict=True))


def reference():
    return make_design(Y, X, ["(Intercept)", "x"], [RandomTerm("g", CODES, np.arange(Q), X, ("(Intercept)", "x"))])


def test_fit_is_the_engine_s():
    header, arrays = decoded(rdoor.fit(json.dumps(meta()), as_bytes(Y, X, CODES, X)))
    direct = profiled.fit(reference())
    assert header["order"] == [0]
    assert header["objective"] == direct.objective
    np.testing.assert_array_equal(arrays["theta"], direct.theta)
    np.testing.assert_array_equal(arrays["b0"].reshape(Q, 2), direct.b[0])
    np.testing.assert_array_equal(arrays["unscaled_vcov"].reshape(2, 2), direct.unscaled_vcov)
    assert arrays["v0"].shape == (Q * 4,)


def test_order_and_dropped_columns_come_back():
    twice = np.column_stack([X, 2 * X[:, 1]])
    few = (np.arange(N, dtype=np.int32) // 7) % 3
    terms = [
        {"group": "few", "n_levels": 3, "names": ["(Intercept)"], "covariance": "us", "label": "", "constant": True},
        {"group": "g", "n_levels": Q, "names": ["(Intercept)"], "covariance": "us", "label": "", "constant": True},
    ]
    text = json.dumps(meta(fixed_names=["(Intercept)", "x", "twice"], terms=terms, condVar=False))
    header, arrays = decoded(rdoor.fit(text, as_bytes(Y, twice, few, CODES)))
    assert header["order"] == [1, 0]
    assert header["dropped_at"] == [2]
    assert arrays["beta"].shape == (2,)


def test_a_matrix_may_come_in_several_buffers():
    whole = rdoor.fit(json.dumps(meta()), as_bytes(Y, X, CODES, X))
    parts = rdoor.fit(json.dumps(meta()), as_bytes(Y, X[:, 0], X[:, 1], CODES, X[:, 0], X[:, 1]))
    assert decoded(parts)[0]["objective"] == decoded(whole)[0]["objective"]


def test_variances_of_a_fit_that_was_sent_back():
    header, arrays = decoded(rdoor.fit(json.dumps(meta()), as_bytes(Y, X, CODES, X)))
    known = {"method": header["method"], "sigma": header["sigma"]}
    fitted = as_bytes(Y, X, CODES, X, arrays["theta"], arrays["beta"], arrays["b0"])
    _, again = decoded(rdoor.conditional_variance(json.dumps(meta(**known)), fitted))
    np.testing.assert_allclose(again["v0"], arrays["v0"], rtol=1e-10)
    fixed_only = json.dumps(meta(**known, rows=5, include=[False]))
    of_rows, predicted = decoded(rdoor.prediction_variance(fixed_only, fitted + as_bytes(X[:5], CODES[:5], X[:5])))
    assert of_rows["noise"] == header["sigma"] ** 2
    vcov = header["sigma"] ** 2 * arrays["unscaled_vcov"].reshape(2, 2)
    np.testing.assert_allclose(predicted["variance"], np.einsum("ij,jk,ik->i", X[:5], vcov, X[:5]), rtol=1e-8)


@pytest.mark.parametrize(
    ("changes", "y", "sentence"),
    [
        ({}, np.ones(N), "the response 'y' is constant"),
        ({"method": "guess"}, Y, "method is 'guess': use one of auto, profiled"),
        ({"control": {"speed": 3}}, Y, "control has no setting 'speed'"),
        ({"device": "abacus"}, Y, "device is 'abacus'"),
        ({"fixed_names": ["a"] * 3}, Y, "cannot reshape array of size"),
        ({"terms": None}, Y, "internal error in pylmernn: TypeError"),
    ],
)
def test_errors_are_one_sentence(changes, y, sentence):
    reply = rdoor.fit(json.dumps(meta(**changes)), as_bytes(y, X, CODES, X))
    assert len(reply) == 1
    message = json.loads(reply[0])["error"]
    assert message.startswith(sentence)
    assert "\n" not in message


def test_control_takes_whole_numbers_as_r_sends_them():
    assert rdoor.read_control({"max_evaluations": 30.0, "tolerance": 1e-6}) == Control(
        tolerance=1e-6, max_evaluations=30
    )


def test_sampling_is_set_for_generalized_models_only():
    settings = {"chains": 3.0, "sampling_preset": "faithful", "preset": "default"}
    control = rdoor.read_control(settings, generalized=True)
    assert (control.sampling.chains, control.sampling.preset, control.training.preset) == (3, "faithful", "default")
    with pytest.raises(ValueError, match="control has no setting 'chains': it has tolerance"):
        rdoor.read_control(settings)


def test_a_history_with_gaps_crosses_as_null():
    nets = [{"label": "nn(x)", "name": "nn", "names": ["x"], "levels": [0], "options": {"hidden": [2]}}]
    control = {"epochs": 2, "folds": 0, "holdout": "rows"}  # then no error at held-out levels is known
    header, _ = decoded(rdoor.fit(json.dumps(meta(nets=nets, control=control)), as_bytes(Y, X, CODES, X, X[:, 1])))
    assert header["networks"]["history"]["validation_levels"] == [None, None]


def test_a_module_crosses_and_is_put_back_for_new_rows():
    from torch import nn

    arrays = RNG.normal(size=(N, 3))
    net = {"label": "nn(s, net = 'tower')", "name": "tower", "names": ["s1", "s2", "s3"], "levels": [0, 0, 0]}
    nets = [net | {"options": {}, "shapes": [[3]]}]
    control = {"epochs": 2, "folds": 0}
    tower = {"tower": nn.Linear(3, 1)}
    reply = rdoor.fit(json.dumps(meta(nets=nets, control=control)), as_bytes(Y, X, CODES, X, arrays), tower)
    header, kept = decoded(reply)
    assert "1 input (arrays: s[3]), module Linear, 4 parameters" in header["networks"]["lines"][3]
    names = [name for name in kept if name.startswith("networks.")]
    new = {name: header["networks"][name] for name in ("state", "shapes")} | {"names": names, "rows": 5, "widths": [3]}
    buffers = [*as_bytes(*(kept[name] for name in names)), *as_bytes(arrays[:5])]
    _, values = decoded(rdoor.network_values(json.dumps(new), buffers, tower))
    np.testing.assert_allclose(values["values"], kept["networks.fitted"][:5], atol=1e-6)
    lost = json.loads(rdoor.network_values(json.dumps(new), buffers)[0])
    assert "'tower'" in lost["error"]


def test_settings_are_checked_in_their_own_types():
    assert rdoor.read_control({"epochs": 5.0, "schedule": "cosine"}).training == Training(epochs=5, schedule="cosine")
    for settings, sentence in [
        ({"epochs": 2.5}, "epochs is 2.5 but must be a whole number"),
        ({"epochs": "five"}, "epochs is 'five' but must be a whole number"),
        ({"schedule": 3}, "schedule is 3 but must be a text"),
        ({"learning_rate": [1, 2]}, r"learning_rate is \[1, 2\] but must be a number"),
        ({"schedule": "linear"}, "schedule is 'linear': use one of"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            rdoor.read_control(settings)


def field_meta(**changes):
    term = {"group": "gp(lon, lat)", "n_levels": Q, "names": ["exp_quad"], "covariance": "gp", "constant": True}
    term |= {"label": "gp(lon, lat)", "options": {"cov": "exp_quad"}, "locations": 2}
    return meta(terms=[term], **changes)


def test_a_field_crosses_with_its_locations():
    places = np.random.default_rng(3).uniform(size=(Q, 2))
    header, arrays = decoded(rdoor.fit(json.dumps(field_meta()), as_bytes(Y, X, CODES, places)))
    term = RandomTerm("gp", CODES, np.arange(Q), np.ones((N, 1)), ("exp_quad",), "gp", "", places, {"cov": "exp_quad"})
    design = make_design(Y, X, ["(Intercept)", "x"], [term])
    direct = exact.fit(design)
    np.testing.assert_array_equal(arrays["theta"], direct.theta)
    new = np.array([[0.5, 0.5], [2.0, 2.0]])
    known = {"method": header["method"], "sigma": header["sigma"], "rows": 2, "include": [True]}
    fitted = as_bytes(Y, X, CODES, places, arrays["theta"], arrays["beta"], arrays["b0"])
    rows = as_bytes(X[:2], np.full(2, -1, dtype=np.int32), np.ones(2), new)
    _, reply = decoded(rdoor.prediction_variance(json.dumps(field_meta(**known)), fitted + rows))
    term_at = NewTerm(np.full(2, -1, dtype=np.int32), np.ones((2, 1)), (), new)
    wanted = prediction_variance(design, direct, NewRows(X[:2], np.zeros(2), (term_at,)))
    np.testing.assert_allclose(reply["variance"], wanted, rtol=1e-8)


def test_networks_come_back_for_values_and_importance():
    pytest.importorskip("torch")
    net = {"label": "nn(x, z)", "name": "nn", "names": ["x", "z"], "levels": [0, 0], "options": {"hidden": [4]}}
    inputs = np.random.default_rng(4).normal(size=(N, 2))
    y = Y + inputs[:, 0]
    changes = {"nets": [net], "control": {"epochs": 2, "folds": 2}, "seed": 1}
    header, arrays = decoded(rdoor.fit(json.dumps(meta(**changes)), as_bytes(y, X, CODES, X, inputs)))
    names = [name for name in header["arrays"] if name.startswith("networks.")]
    kept = {"state": header["networks"]["state"], "shapes": header["networks"]["shapes"], "names": names}
    sent = as_bytes(*(arrays[name] for name in names))
    _, values = decoded(rdoor.network_values(json.dumps({**kept, "rows": N, "widths": [2]}), sent + as_bytes(inputs)))
    assert values["values"].shape == (N,)
    known = {"method": header["method"], "sigma": header["sigma"], "offset": True, "networks": kept, "nets": [net]}
    fitted = as_bytes(y, X, arrays["networks.fitted"], CODES, X, inputs, arrays["theta"], arrays["beta"], arrays["b0"])
    told, table = decoded(rdoor.importance(json.dumps(meta(**known, n_repeats=2, seed=0)), fitted + sent))
    assert told["input"] == ["x", "z"]
    assert table["importance"].shape == (2,)
    assert any("explains" in line for line in told["lines"])


def test_a_model_without_networks_has_no_importance():
    header, arrays = decoded(rdoor.fit(json.dumps(meta()), as_bytes(Y, X, CODES, X)))
    known = {"method": header["method"], "sigma": header["sigma"], "n_repeats": 1, "seed": 0}
    fitted = as_bytes(Y, X, CODES, X, arrays["theta"], arrays["beta"], arrays["b0"])
    message = json.loads(rdoor.importance(json.dumps(meta(**known)), fitted)[0])["error"]
    assert message == "this model has no network."


def test_generalized_fit_is_the_engine_s():
    y = (Y > 1.0).astype(float)
    term = {"group": "g", "n_levels": Q, "names": ["(Intercept)"], "covariance": "us", "label": "", "constant": True}
    text = json.dumps(meta(terms=[term], family="binomial(probit)", nAGQ=1))
    header, arrays = decoded(rdoor.fit_generalized(text, as_bytes(y, X, CODES)))
    random = [RandomTerm("g", CODES, np.arange(Q), np.ones((N, 1)), ("(Intercept)",))]
    design = make_design(y, X, ["(Intercept)", "x"], random, generalized=True)
    direct = pirls.fit(design, read_family("binomial(probit)"))
    assert header["objective"] == direct.objective
    assert (header["family"], header["link"], header["has_dispersion"]) == ("binomial", "probit", False)
    np.testing.assert_array_equal(arrays["beta"], direct.beta)
    np.testing.assert_allclose(arrays["vcov"].reshape(2, 2), fixed_covariance(design, direct))
    assert arrays["v0"].shape == (Q,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "poisson"}, "a Poisson response is a whole number"),
        ({"family": "weibull"}, "family 'weibull' is not known"),
        ({"family": "binomial", "control": {"probes": 3}}, "no setting 'probes' for generalized models"),
    ],
)
def test_generalized_fit_says_what_is_wrong(changes, message):
    reply = rdoor.fit_generalized(json.dumps(meta(nAGQ=1, **changes)), as_bytes(Y, X, CODES, X))
    assert message in json.loads(reply[0])["error"]


# ---- classes, networks and sampling

INTERCEPT = {"group": "g", "n_levels": Q, "names": ["(Intercept)"], "covariance": "us", "label": "", "constant": True}
NET = {"label": "nn(x)", "name": "nn", "names": ["x"], "levels": [0], "options": {"hidden": [3]}}
CLASSES = np.digitize(Y, np.quantile(Y, [0.4, 0.7])).astype(float)
SLOPE = {"terms": [INTERCEPT], "nAGQ": 1, "generalized": True, "fixed_names": ["x"], "classes": ["low", "mid", "high"]}


def test_thresholds_cross_with_their_covariance():
    text = json.dumps(meta(**SLOPE, family="ordinal"))
    header, arrays = decoded(rdoor.fit_generalized(text, as_bytes(CLASSES, X[:, 1], CODES)))
    random = [RandomTerm("g", CODES, np.arange(Q), np.ones((N, 1)), ("(Intercept)",))]
    design = make_design(CLASSES, X[:, 1:], ["x"], random, generalized=True, classes=["low", "mid", "high"])
    direct = pirls.fit(design, read_family("ordinal"))
    assert header["family"] == "ordinal"
    np.testing.assert_array_equal(arrays["phi"], direct.phi)
    covariance = arrays["threshold_vcov"].reshape(2, 2)
    np.testing.assert_allclose(covariance, covariance.T, rtol=1e-6)
    assert (np.linalg.eigvalsh(covariance) > 0).all()


def test_networks_of_a_generalized_fit_cross_and_come_back():
    y = (Y > 1.0).astype(float)
    changes = {"terms": [INTERCEPT], "nAGQ": 1, "nets": [NET], "control": {"epochs": 2, "folds": 0}, "seed": 1}
    text = json.dumps(meta(**changes, family="binomial", method="auto"))
    header, arrays = decoded(rdoor.fit_generalized(text, as_bytes(y, X, CODES, X[:, 1])))
    assert (header["method"], header["networks"]["criterion"]) == ("alternating", "mean deviance")
    names = [name for name in header["arrays"] if name.startswith("networks.")]
    kept = {"state": header["networks"]["state"], "shapes": header["networks"]["shapes"], "names": names}
    sent = as_bytes(*(arrays[name] for name in names))
    known = {"method": header["method"], "sigma": 1.0, "networks": kept, "nets": [NET], "family": "binomial", "nAGQ": 1}
    given = meta(**known, terms=[INTERCEPT], offset=True, generalized=True)
    f, phi = arrays["networks.fitted"], np.ones(1)
    fitted = as_bytes(y, X, f, CODES, X[:, 1], arrays["theta"], arrays["beta"], arrays["b0"], phi) + sent
    told, _ = decoded(rdoor.importance(json.dumps({**given, "n_repeats": 1, "seed": 0}), fitted))
    assert any("of the deviance of y" in line for line in told["lines"])
    rows = as_bytes(X[:5], CODES[:5], np.ones(5), X[:5, 1])
    text = json.dumps({**given, "rows": 5, "widths": [1], "include": [True]})
    _, reply = decoded(rdoor.predictor_variance(text, fitted + rows))
    assert (reply["variance"] > 0).all()


def multinomial_fit():
    changes = {**SLOPE, "fixed_names": ["(Intercept)", "x"], "nets": [NET], "family": "multinomial", "method": "auto"}
    control = {"epochs": 2, "folds": 0, "draws": 6, "warmup": 2}
    text = json.dumps(meta(**changes, control=control, seed=1))
    return changes, decoded(rdoor.fit_generalized(text, as_bytes(CLASSES, X, CODES, X[:, 1])))


def test_a_multinomial_fit_crosses_class_by_class():
    _, (header, arrays) = multinomial_fit()
    assert header["classes"] == ["low", "mid", "high"]
    assert (header["draws"]["n_chains"], header["draws"]["n_draws"], header["networks"]["outputs"]) == (2, 6, 3)
    beta, b, f = arrays["beta"].reshape(2, 3), arrays["b0"].reshape(Q, 1, 3), arrays["networks.fitted"].reshape(N, 3)
    np.testing.assert_allclose(beta.sum(axis=1), 0.0, atol=1e-8)
    np.testing.assert_allclose(arrays["eta"].reshape(N, 3), X @ beta + f + b[CODES, 0], atol=1e-6)
    assert arrays["draws"].shape == (2 * 6 * len(header["draws"]["names"]),)
    assert (arrays["c0"].shape, arrays["e0"].shape) == ((3,), (3,))


def test_a_multinomial_fit_grows_by_rows():
    changes, (header, arrays) = multinomial_fit()
    names = [name for name in header["arrays"] if name.startswith("networks.")]
    kept = {"state": header["networks"]["state"], "shapes": header["networks"]["shapes"], "names": names}
    rows, q = np.append(np.arange(N), [0, 1, 2]), Q + 1
    codes = np.append(CODES, [Q, Q, Q]).astype(np.int32)
    known = {**changes, "n": N + 3, "terms": [{**INTERCEPT, "n_levels": q}], "method": "mcem", "networks": kept}
    known |= {"known": N, "control": {"draws": 6, "warmup": 2}, "seed": 1}
    beta = arrays["beta"].reshape(2, 3)
    zeros = [np.zeros((N + 3, 3)), np.zeros((q, 1, 3)), np.zeros((q, 1, 3))]
    covariances = [arrays["c0"].reshape(3, 1, 1), arrays["e0"].reshape(3, 1)]
    sent = as_bytes(CLASSES[rows], X[rows], codes, X[rows, 1], beta, *zeros, *covariances)
    sent += as_bytes(*(arrays[name] for name in names))
    grown, after = decoded(rdoor.update_class_effects(json.dumps(meta(**known)), sent))
    assert after["b0"].shape == (q * 3,)
    f, b = after["networks.fitted"].reshape(N + 3, 3), after["b0"].reshape(q, 3)
    np.testing.assert_allclose(f[N:], f[:3], atol=1e-6)  # the same inputs, in sample
    np.testing.assert_allclose(after["eta"].reshape(-1, 3), X[rows] @ beta + f + b[codes], atol=1e-6)
    assert grown["draws"]["n_draws"] == 6


def test_a_linear_fit_grows_by_rows():
    header, arrays = decoded(rdoor.fit(json.dumps(meta(terms=[INTERCEPT])), as_bytes(Y, X, CODES)))
    rows, codes = np.append(np.arange(N), [0, 1]), np.append(CODES, [Q, Q]).astype(np.int32)
    known = {"n": N + 2, "terms": [{**INTERCEPT, "n_levels": Q + 1}], "method": header["method"], "known": N}
    sent = as_bytes(Y[rows], X[rows], codes, arrays["theta"], arrays["beta"], np.zeros(Q + 1))
    _, after = decoded(rdoor.update_random_effects(json.dumps(meta(**known, sigma=header["sigma"])), sent))
    rest = (Y - X @ arrays["beta"])[:2]
    ratio = arrays["theta"][0] ** 2
    np.testing.assert_allclose(after["b0"][Q], ratio * rest.sum() / (1.0 + 2.0 * ratio), rtol=1e-8)
    np.testing.assert_allclose(after["b0"][:Q], arrays["b0"], rtol=1e-8)


def test_means_over_normal_predictors_are_averages():
    eta, variance = np.array([-1.0, 0.5]), np.array([2.0, 0.0])
    sent = as_bytes(np.ones(1), eta, variance)
    _, reply = decoded(rdoor.marginal_means(json.dumps({"family": "binomial"}), sent))
    t, w = np.polynomial.hermite_e.hermegauss(80)
    expected = (w / w.sum()) @ (1.0 / (1.0 + np.exp(-(eta[:, None] + np.sqrt(variance)[:, None] * t)))).T
    np.testing.assert_allclose(reply["means"], expected, rtol=1e-9)
    text = json.dumps({"rows": 2, "classes": 2})
    both = as_bytes(np.column_stack([0 * eta, eta]), np.column_stack([0 * variance, variance]))
    _, classes = decoded(rdoor.marginal_classes(text, both))
    np.testing.assert_allclose(classes["probabilities"].reshape(2, 2)[:, 1], expected, rtol=1e-6)


# ---- networks that vary by group

PERSONAL = {"group": "g", "n_levels": Q, "net": "nn", "selector": "last", "covariance": "us", "label": "(nn.last | g)"}


def varying_meta(**changes):
    given = {
        "terms": [],
        "varying": [PERSONAL | {"rank": 0}],
        "nets": [NET],
        "formula": "y ~ x + nn(x) + (nn.last | g)",
    }
    return meta(**{**given, "control": {"epochs": 3}, "seed": 1, "nAGQ": 1, "method": "auto", **changes})


def kept_fit(header, arrays, **changes):
    """A fit of a network that varies as R sends it back: meta and buffers."""
    names = [name for name in header["arrays"] if name.startswith("networks.")]
    networks = {"state": header["networks"]["state"], "shapes": header["networks"]["shapes"], "names": names}
    size = len(header["labels"])
    known = {"networks": networks, "selector": "last", "label": "(nn.last | g)", "input_names": ["x"], "n_levels": Q}
    known |= {"shape": header["shape"], "sigma": header["sigma"], "in_full": True, "width": 1}
    factor = arrays["factor"].reshape(header["shape"])
    sent = as_bytes(*(arrays[name] for name in names), factor, arrays["effects"].reshape(Q, size))
    return known | changes, sent


def fit_varying(y=Y, half=rdoor.fit, **changes):
    return decoded(half(json.dumps(varying_meta(**changes)), as_bytes(y, X, CODES, X[:, 1])))


def varying_design():
    net = NetTerm("nn(x)", "nn", X[:, 1:], ("x",), (0,), {"hidden": [3]})
    term = VaryingTerm("g", CODES, np.arange(Q), "nn", "last", label="(nn.last | g)")
    return make_design(Y, X, ["(Intercept)", "x"], [], nets=[net], varying=[term])


def test_a_network_that_varies_is_the_engine_s():
    header, arrays = fit_varying(control={"epochs": 3, "folds": 0})
    direct = nme.fit(varying_design(), control=Control(training=Training(epochs=3, seed=1, folds=0), seed=1))
    assert (header["method"], header["REML"]) == ("nme", True)
    assert header["objective"] == pytest.approx(direct.objective, rel=1e-9)  # last digits depend on where memory lies
    assert header["labels"] == list(direct.selected.labels)
    assert header["text"][1] == "Formula: y ~ x + nn(x) + (nn.last | g)"
    for name in ("beta", "effects", "factor", "variances", "fixed_covariance"):
        expected = getattr(direct, name)
        np.testing.assert_allclose(arrays[name].reshape(expected.shape), expected, rtol=1e-6, atol=1e-8, err_msg=name)


def test_values_of_a_network_that_varies_are_those_of_the_groups():
    header, arrays = fit_varying()
    known, sent = kept_fit(header, arrays, rows=N, average=0, seed=0)
    _, own = decoded(rdoor.varying_values(json.dumps(known), sent + as_bytes(CODES, X[:, 1])))
    np.testing.assert_allclose(X @ arrays["beta"] + own["values"], arrays["fitted"], atol=1e-5)
    nobody = np.full(N, -1, dtype=np.int32)
    _, generic = decoded(rdoor.varying_values(json.dumps(known), sent + as_bytes(nobody, X[:, 1])))
    np.testing.assert_allclose(generic["values"], arrays["networks.fitted"], atol=1e-5)
    text = json.dumps(known | {"average": 400})
    _, averaged = decoded(rdoor.varying_values(text, sent + as_bytes(nobody, X[:, 1])))
    spread = np.std(own["values"] - generic["values"])  # linear in what varies: the mean is the generic value
    assert np.abs(averaged["values"] - generic["values"]).max() < spread
    assert (averaged["values"] != generic["values"]).all()


def test_groups_are_learnt_again_from_their_rows():
    header, arrays = fit_varying()
    known, sent = kept_fit(header, arrays, rows=N, q=Q)
    rows = as_bytes(CODES, X[:, 1], X @ arrays["beta"], Y)
    _, found = decoded(rdoor.update_varying(json.dumps(known), sent + rows))
    np.testing.assert_allclose(found["effects"], arrays["effects"], atol=1e-3)
    assert found["variances"].shape == arrays["variances"].shape


def test_generalized_networks_that_vary_cross_and_come_back():
    y = (Y > 1.0).astype(float)
    header, arrays = fit_varying(y, rdoor.fit_generalized, family="binomial", generalized=True)
    assert (header["method"], header["family"], header["link"]) == ("nme", "binomial", "logit")
    known, sent = kept_fit(header, arrays, family="binomial", rows=N, average=0, seed=0, q=Q)
    sent += as_bytes(np.ones(1))
    _, own = decoded(rdoor.varying_values(json.dumps(known), sent + as_bytes(CODES, X[:, 1])))
    linear = X @ arrays["beta"]
    np.testing.assert_allclose(linear + own["values"], arrays["fitted"], atol=1e-5)
    rows = as_bytes(X[:, 1], linear)
    _, one = decoded(rdoor.varying_averages(json.dumps(known | {"average": 1}), sent + rows))
    assert ((one["means"] > 0) & (one["means"] < 1)).all()
    new = as_bytes(CODES, X[:, 1], linear, y, np.ones(N))
    _, found = decoded(rdoor.update_varying(json.dumps(known), sent + new))
    np.testing.assert_allclose(found["effects"], arrays["effects"], atol=0.02)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "alternating"}, "(nn.last | g): only method 'nme' lets a network vary by group"),
        ({"varying": [PERSONAL | {"rank": 0, "selector": "middle"}]}, "the network has no parameter 'middle'"),
    ],
)
def test_networks_that_cannot_vary_say_so(changes, sentence):
    reply = rdoor.fit(json.dumps(varying_meta(**changes)), as_bytes(Y, X, CODES, X[:, 1]))
    assert sentence in json.loads(reply[0])["error"]
