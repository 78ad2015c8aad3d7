"""Torch modules of one's own, arrays as inputs, and what networks do wrong."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import pylmernn
from pylmernn.engines.control import Control
from pylmernn.training.options import Training

GROUPS = 40


def quick(**settings):
    """A short training without folds."""
    return Control(training=Training(**{"epochs": 20, "folds": 0, **settings}))


def with_groups(f, seed):
    """A data frame with f plus 40 group effects and noise of standard deviation 0.5."""
    rng = np.random.default_rng(seed)
    g = rng.integers(0, GROUPS, len(f))
    b = np.random.default_rng(99).normal(size=GROUPS)
    return pd.DataFrame({"g": g, "y": f + b[g] + 0.5 * rng.normal(size=len(f))})


def plane(n=1500, seed=0):
    """Two numbers and a factor."""
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-2, 2, (2, n))
    kind = rng.integers(0, 3, n)
    d = with_groups(np.sin(2 * x) * z + kind, seed + 1)
    return d.assign(x=x, z=z, kind=np.array(list("abc"))[kind])


def sequences(n, seed):
    """Series of 12 steps and 2 channels: a sum that fades with age, only where the second channel is positive."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=(n, 12, 2)) * [3.0, 0.1] + [10.0, 0.0]
    fade = 0.6 ** np.arange(12)[::-1]
    d = with_groups(((s[:, :, 0] - 10) / 3 * (s[:, :, 1] > 0) * fade).sum(axis=1) * 2, seed + 1)
    return d.assign(s=list(s), mean=s.mean(axis=(1, 2)))


def images(n, seed):
    """Grey images of 8 x 8 with a bright 3 x 3 square somewhere in half of them."""
    rng = np.random.default_rng(seed)
    image = 0.3 * rng.normal(size=(n, 8, 8, 1))
    bright = rng.integers(0, 2, n)
    for i, (row, column) in enumerate(rng.integers(0, 6, (n, 2))):
        image[i, row : row + 3, column : column + 3] += bright[i]
    return with_groups(2.0 * bright, seed + 1).assign(image=list(image))


class Tower(nn.Module):
    """A plain network of k numbers."""

    def __init__(self, k=2, width=32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(k, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.layers(x))


class Recurrent(nn.Module):
    """The last state of a GRU over (m, time, channel)."""

    def __init__(self, channels=2, width=16):
        super().__init__()
        self.gru = nn.GRU(channels, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, s):
        return self.head(self.gru(s)[0][:, -1]).squeeze(1)


class Convolution1d(nn.Module):
    """A convolution along the time of (m, time, channel), with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(2, 16, 3), nn.BatchNorm1d(16), nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))

    def forward(self, s):
        return self.layers(s.transpose(1, 2))


class Convolution2d(nn.Module):
    """The brightest spot of a convolution of (m, height, width, channel)."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 1)

    def forward(self, image):
        return self.head(self.convolution(image.permute(0, 3, 1, 2)).amax(dim=(2, 3)))


def fit_with(formula, data, module, name="tower", **settings):
    """A short fit with one module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these are larger than their data
        return pylmernn.lmernn(formula, data, nets={name: module}, control=quick(**settings), seed=1)


def error_of(fit, data, **options):
    """Mean squared error of predictions."""
    return float(np.mean((data["y"] - fit.predict(data, **options)) ** 2))


@pytest.fixture(scope="module")
def tower():
    data = plane()
    return fit_with("y ~ kind + nn(x, z, net = 'tower') + (1 | g)", data, Tower()), data


def test_a_module_learns_and_linear_terms_beside_it_keep_their_meaning(tower):
    fit, _ = tower
    assert error_of(fit, plane(seed=50)) < 0.25 * 1.5
    assert fit.fixef()["kindc"] == pytest.approx(2.0, abs=0.2)
    assert fit.sigma() == pytest.approx(0.5, abs=0.07)


def test_the_summary_names_class_and_parameters(tower):
    fit, _ = tower
    assert "nn(x, z, net = 'tower')" in str(fit.summary()).replace('"', "'")
    assert "2 inputs, module Tower, 1185 parameters" in str(fit.summary())


def test_the_user_s_module_is_never_changed():
    data, module = plane(400), Tower()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    fit_with("y ~ nn(x, z, net = 'tower') + (1 | g)", data, module, epochs=2)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not module.training


def test_folds_and_seeds_start_from_weights_of_their_own():
    data, module = plane(400), Tower(width=8)
    fit = fit_with("y ~ nn(x, z, net = 'tower') + (1 | g)", data, module, epochs=1, folds=2, learning_rate=1e-9)
    one, two = (member[0]["module.head.weight"] for member in fit.estimates.networks.members)
    assert np.abs(one - two).max() > 0.01
    again = fit.update(seed=1).estimates.networks.members[0][0]["module.head.weight"]
    np.testing.assert_array_equal(one, again)
    other = fit.update(seed=2).estimates.networks.members[0][0]["module.head.weight"]
    assert np.abs(one - other).max() > 0.01


def test_a_callable_keeps_the_weights_it_made():
    data, made = plane(400), Tower()
    nn.init.constant_(made.head.weight, 0.25)
    formula = "y ~ nn(x, z, net = 'tower') + (1 | g)"
    fit = fit_with(formula, data, lambda: made, epochs=1, learning_rate=1e-9)
    np.testing.assert_allclose(fit.estimates.networks.members[0][0]["module.head.weight"], 0.25, atol=1e-6)
    assert torch.all(made.head.weight == 0.25)
    fresh = fit_with(formula, data, Tower, epochs=1)
    assert fresh.estimates.networks.specs[0].class_name == "Tower"


def test_frozen_layers_keep_their_weights():
    data, module = plane(400), Tower()
    for parameter in module.layers.parameters():
        parameter.requires_grad_(False)
    fit = fit_with("y ~ nn(x, z, net = 'tower') + (1 | g)", data, module, epochs=2)
    kept = fit.estimates.networks.members[0][0]["module.layers.0.weight"]
    np.testing.assert_array_equal(kept, module.layers[0].weight.numpy())
    assert fit.estimates.networks.n_parameters == [33]


@pytest.mark.parametrize("module", [Recurrent(), Convolution1d], ids=["gru", "conv1d"])
def test_sequences(module):
    data, new = sequences(1200, 0), sequences(600, 5)
    fit = fit_with("y ~ nn(s, net = 'series') + (1 | g)", data, module, name="series", learning_rate=1e-2)
    plain = pylmernn.lmernn("y ~ mean + (1 | g)", data)
    assert error_of(fit, new) < 0.4 * error_of(plain, new)
    assert "1 input (arrays: s[12, 2]), module" in str(fit.summary())


def test_images():
    data, new = images(1200, 0), images(400, 5)
    fit = fit_with("y ~ nn(image, net = 'eye') + (1 | g)", data, Convolution2d, name="eye", learning_rate=1e-2)
    plain = pylmernn.lmernn("y ~ (1 | g)", data)
    assert error_of(fit, new) < 0.4 * error_of(plain, new)


def test_arrays_in_a_network_from_arguments():
    data, new = sequences(1500, 0), sequences(500, 5)
    with pytest.warns(UserWarning, match="1841 parameters for 1500 rows"):
        fit = pylmernn.lmernn("y ~ nn(s, hidden = c(40, 20)) + (1 | g)", data, control=quick(), seed=1)
    assert error_of(fit, new) < 0.7 * error_of(pylmernn.lmernn("y ~ mean + (1 | g)", data), new)
    assert "1 input (arrays: s[12, 2]), hidden layers 40-20" in str(fit.summary())


def test_raw_inputs_where_they_are_asked_for():
    """Tokens for an embedding must not be standardised."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.EmbeddingBag(20, 1)

        def forward(self, tokens):
            return self.embedding(tokens.long())

    tokens = np.random.default_rng(0).integers(0, 20, (800, 5))
    values = np.random.default_rng(1).normal(size=20)
    data = with_groups(5 * values[tokens].mean(axis=1), 2).assign(tokens=list(tokens))
    formula = "y ~ nn(tokens, net = 'words', standardize = FALSE) + (1 | g)"
    fit = fit_with(formula, data, Words, name="words", learning_rate=3e-2, weight_decay=0.0)
    assert fit.sigma() < 0.7
    assert fit.estimates.networks.n_parameters == [20]


def test_new_rows_whose_arrays_are_missing_get_nan():
    data = sequences(300, 0)
    fit = fit_with("y ~ nn(s, net = 'series') + (1 | g)", data, Recurrent, name="series", epochs=1)
    cells = [None, data["s"][1], np.full((12, 2), np.nan)]
    predicted = fit.predict(pd.DataFrame({"s": cells, "g": [0, 1, 2]}))
    assert np.isnan(predicted).tolist() == [True, False, True]


def test_a_saved_fit_holds_weights_but_no_code(tmp_path):
    data = sequences(300, 0).assign(z=np.arange(300.0))
    given = {"series": Recurrent(), "nn": {"hidden": (5,)}}
    formula = "y ~ nn(s, net = 'series') + nn(z) + (1 | g)"
    with pytest.warns(UserWarning, match="977 parameters for 300 rows"):
        fit = pylmernn.lmernn(formula, data, nets=given, control=quick(epochs=2), seed=1)
    fit.save(tmp_path / "fit.safetensors")
    bare = pylmernn.load(tmp_path / "fit.safetensors")
    assert "1 input (arrays: s[12, 2]), module Recurrent, 977 parameters" in str(bare.summary())
    assert bare.ranef()["g"].equals(fit.ranef()["g"])
    np.testing.assert_array_equal(bare.fitted(), fit.fitted())
    np.testing.assert_array_equal(np.stack(bare.model_frame()["s"].to_list()), np.stack(data["s"].to_list()))
    with pytest.raises(
        pylmernn.DesignError, match=r"'series' is a module of your own \(Recurrent\).*nets=\{'series': mod"
    ):
        bare.predict(data)
    whole = pylmernn.load(tmp_path / "fit.safetensors", nets={"series": Recurrent()})
    assert str(whole.summary()) == str(fit.summary())
    np.testing.assert_array_equal(whole.predict(data), fit.predict(data))
    again = whole.update(data=data)
    np.testing.assert_array_equal(again.fitted(), fit.fitted())


def test_a_module_that_does_not_fit_the_saved_weights(tmp_path):
    fit = fit_with("y ~ nn(x, z, net = 'tower') + (1 | g)", plane(400), Tower, epochs=1)
    fit.save(tmp_path / "fit.safetensors")
    for nets, message in (
        (
            {"tower": Tower(width=8)},
            r"nets\['tower'\] does not fit the saved weights of the network, a Tower with 1185",
        ),
        ({"other": Tower}, "nets has 'other', but the saved fit has no module of that name: it has tower"),
    ):
        with pytest.raises(pylmernn.DesignError, match=message):
            pylmernn.load(tmp_path / "fit.safetensors", nets=nets)


def test_refits_keep_the_module(tower):
    fit, data = tower
    ml = fit.refitML()
    np.testing.assert_allclose(ml.predict(data.head(5)), fit.predict(data.head(5)), atol=0.05)
    assert ml.refit(fit.simulate(1, seed=1).iloc[:, 0]).estimates.networks is fit.estimates.networks


class Returns(nn.Module):
    """Two numbers through a linear layer, then what is to be tried."""

    def __init__(self, change):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.change = change

    def forward(self, x):
        return self.change(self.layer(x))


def divided_by_zero():
    return Returns(lambda out: out / 0.0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            divided_by_zero,
            r"the network 'tower' returns NaN or infinite values before any training \(400 of 400 rows\)",
        ),
        (
            Returns(lambda out: out[:-1]),
            r"the network 'tower' returns shape \(399, 1\) for 400 rows: .* shape \(400,\)",
        ),
        (Returns(lambda out: out.expand(-1, 3)), r"returns shape \(400, 3\) for 400 rows"),
        (Returns(lambda out: out.mean()), r"returns shape \(\) for 400 rows"),
        (Returns(lambda out: (out, out)), "the network 'tower' returns the type tuple for 400 rows"),
        (Tower(k=3), r"the network 'tower' failed on inputs \(400, 2\) float32: RuntimeError: mat1 and mat2"),
        (lambda: 3, r"nets\['tower'\] returns the type int: it must return a torch module"),
        (lambda x: Tower(), r"nets\['tower'\] could not be called: TypeError"),
        (nn.Flatten(0), "the network 'tower' returns shape"),
        (lambda: Returns(lambda out: out).requires_grad_(False), "the network 'tower' has no parameters to learn"),
    ],
)
def test_networks_that_return_what_they_should_not(module, message):
    with pytest.raises(pylmernn.DesignError, match=message):
        fit_with("y ~ nn(x, z, net = 'tower') + (1 | g)", plane(400), module)


@pytest.mark.parametrize(
    ("formula", "nets", "message"),
    [
        (
            "y ~ nn(x, z, net = 'tower', hidden = 3) + (1 | g)",
            {"tower": Tower},
            "'hidden' is an option of networks that",
        ),
        ("y ~ nn(x, z, standardize = 'no') + (1 | g)", None, "standardize is no; it must be TRUE or FALSE"),
        ("y ~ nn(x, dropout = 'a') + (1 | g)", None, "dropout is a; it must be"),
        ("y ~ nn(x, hidden = 'a') + (1 | g)", None, "hidden must be whole numbers"),
        ("y ~ nn(x, embedding = -1) + (1 | g)", None, "embedding is -1; it must be"),
        ("y ~ nn(x, g) + (1 | g)", None, "'g' is the grouping factor of a random term too"),
    ],
)
def test_options_that_do_not_suit(formula, nets, message):
    with pytest.raises(ValueError, match=message):
        pylmernn.lmernn(formula, plane(400), nets=nets)


def test_an_input_that_new_data_lack_is_named(tower):
    fit, data = tower
    with pytest.raises(pylmernn.DesignError, match="data has no column 'z'"):
        fit.predict(data.drop(columns="z"))


def test_more_parameters_than_rows_warn_once(tower):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = pylmernn.lmernn("y ~ nn(x, z) + (1 | g)", plane(400), control=quick(epochs=1), seed=1)
    texts = [str(w.message) for w in caught if "parameters" in str(w.message)]
    assert texts == [
        "nn(x, z) has 6950 parameters for 400 rows: take fewer hidden units, dropout or a larger weight_decay"
    ]
    assert texts[0] in str(fit.summary())
    assert "parameters for" not in str(tower[0].summary())


class Breaks(nn.Module):
    """A linear layer whose value is NaN while training, from the given call on."""

    def __init__(self, steps):
        super().__init__()
        self.layer, self.left = nn.Linear(2, 1), steps

    def forward(self, x):
        self.left -= self.training
        return self.layer(x) * (math.nan if self.training and self.left < 0 else 1.0)


def test_a_loss_that_stops_being_finite_keeps_the_last_good_state():
    data = plane(400)
    per_epoch = math.ceil(360 / 16)
    formula = "y ~ nn(x, z, net = 'tower') + (1 | g)"
    with pytest.warns(UserWarning, match=r"the loss is not finite in epoch 3; these are the best networks so far"):
        fit = pylmernn.lmernn(formula, data, nets={"tower": Breaks(2 * per_epoch)}, control=quick(), seed=1)
    assert len(fit.history()) == 2
    assert np.isfinite(fit.fitted()).all()
    assert np.isfinite(fit.estimates.networks.members[0][0]["module.layer.weight"]).all()


def test_batch_norm_and_a_last_batch_of_one_row():
    from pylmernn.training.loop import batches

    data = plane(433)  # 390 rows to learn from after 43 are held out
    control = quick(epochs=2, batch_size=389)
    fit = pylmernn.lmernn("y ~ nn(x, z, hidden = 5, normalization = 'batch') + (1 | g)", data, control=control, seed=1)
    assert np.isfinite(fit.fitted()).all()
    assert batches(7, 3) == [slice(0, 3), slice(3, 7)]
    assert batches(8, 3) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert batches(1, 3) == [slice(0, 1)]
