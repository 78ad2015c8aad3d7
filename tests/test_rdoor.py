"""The Python half of the R door, called as R calls it."""

import json

import numpy as np
import pytest

from pylmernn import rdoor
from pylmernn.engines import profiled
from pylmernn.engines.control import Control
from pylmernn.formula.design import RandomTerm, make_design

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
