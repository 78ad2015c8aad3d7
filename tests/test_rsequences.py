"""The Python half of the R door for sequences, called as R calls it."""

import json

import numpy as np
import pandas as pd
import pytest
from sequence_examples import dyads

import pylmernn
from pylmernn import rdoor
from pylmernn.engines.control import Control
from pylmernn.training.options import Training

DATA = dyads(6, 5, 2).sample(frac=1.0, random_state=0, ignore_index=True)
STATES = ["calm", "joy", "row"]
FORMULA = "state ~ x2 + nn(x1, x2, hidden=c(2)) + (nn.last | dyad) + (crf | dyad)"
X = np.column_stack([np.ones(len(DATA)), DATA.x2])
INPUTS = DATA[["x1", "x2"]].to_numpy()
SEQUENCES, NAMES = pd.factorize(DATA.sequence)
GROUPS, LEVELS = pd.factorize(DATA.dyad, sort=True)
NETWORK = {"label": "nn(x1, x2)", "name": "nn", "names": ["x1", "x2"], "levels": [0, 0], "options": {"hidden": [2]}}
pytestmark = pytest.mark.filterwarnings("ignore:the likelihood was still rising")


def as_bytes(*arrays):
    return [bytearray(np.asarray(array).ravel(order="F").tobytes()) for array in arrays]


def codes(*arrays):
    return as_bytes(*(np.asarray(array, dtype=np.int32) for array in arrays))


def decoded(reply):
    header = json.loads(reply[0])
    assert "error" not in header, header
    return header, dict(zip(header["arrays"], (np.frombuffer(body) for body in reply[1:]), strict=True))


def ask(**changes):
    bar = {"group": "dyad", "n_levels": len(LEVELS), "covariance": "us", "rank": 0}
    given = {
        "n": len(DATA), "response": "state", "fixed_names": ["(Intercept)", "x2"], "weights": False, "offset": False,
        "terms": [], "classes": STATES, "nets": [NETWORK], "formula": FORMULA, "method": "auto", "seed": 1,
        "varying": [{**bar, "net": "nn", "selector": "last", "label": "(nn.last | dyad)"},
                    {**bar, "net": "crf", "selector": "", "label": "(crf | dyad)"}],
        "control": {"epochs": 2}, "sequences": {"names": list(NAMES)}, **changes,
    }  # fmt: skip
    y = DATA.state.map(STATES.index).to_numpy(dtype=float)
    buffers = as_bytes(y, X) + codes(GROUPS, GROUPS) + as_bytes(INPUTS) + codes(SEQUENCES, DATA.t)
    return rdoor.fit_sequences(json.dumps(given), buffers)


@pytest.fixture(scope="module")
def fit():
    control = Control(training=Training(epochs=2))
    return pylmernn.glmernn(FORMULA, DATA, family="crf", sequence="sequence", time="t", control=control, seed=1)


@pytest.fixture(scope="module")
def reply():
    return decoded(ask())


def kept(reply, **changes):
    """A fit and the rows of the data as R sends them, but for the groups: meta and buffers."""
    header, arrays = reply
    names = [name for name in header["arrays"] if name.startswith("networks.")]
    q, D = len(LEVELS), len(header["labels"])
    known = {
        "networks": {"state": header["networks"]["state"], "shapes": header["networks"]["shapes"], "names": names},
        "bar": {"selector": "last", "label": "(nn.last | dyad)", "input_names": ["x1", "x2"]}, "classes": STATES,
        "p": 2, "moves": True, "n_levels": q, "size": D, "rows": len(DATA), "width": 2, "group": "dyad",
        "sequences": {"names": list(NAMES)}, "observed": False, "probabilities": True, "average": 0, "seed": 0,
    }  # fmt: skip
    shapes = {"beta": (2, 3), "transitions": (3, 3), "factor": (D, D), "effects": (q, D)}
    sent = as_bytes(*(arrays[name] for name in names), *(arrays[name].reshape(s) for name, s in shapes.items()))
    return known | changes, sent + as_bytes(X, INPUTS) + codes(SEQUENCES, DATA.t)


def test_a_fit_is_that_of_python(fit, reply):
    header, arrays = reply
    e = fit.estimates
    assert header["objective"] == e.objective
    assert header["labels"] == list(e.labels)
    assert header["df"] == fit.logLik().df
    assert header["text"][2:] == str(fit).splitlines()[2:]
    np.testing.assert_allclose(-2 * arrays["log_steps"], fit.residuals("deviance") ** 2, atol=1e-12)
    for name in ("beta", "transitions", "effects", "variances", "factor", "fixed_covariance"):
        np.testing.assert_array_equal(arrays[name].reshape(getattr(e, name).shape), getattr(e, name), err_msg=name)
    np.testing.assert_array_equal(arrays["probabilities"].reshape(-1, 3), fit.fitted())
    assert [STATES[int(code)] for code in arrays["states"]] == fit.predict().tolist()


def test_values_of_known_and_new_groups(fit, reply):
    known, sent = kept(reply)
    _, own = decoded(rdoor.sequence_values(json.dumps(known), sent + codes(GROUPS)))
    np.testing.assert_allclose(own["probabilities"].reshape(-1, 3), fit.fitted(), atol=1e-12)
    new = np.where(GROUPS == 2, len(LEVELS) + 4, GROUPS)
    known |= {"average": 5, "seed": 3}
    _, mixed = decoded(rdoor.sequence_values(json.dumps(known), sent + codes(new)))
    renamed = DATA.assign(dyad=DATA.dyad.where(GROUPS != 2, "new"))
    wanted = fit.predict_proba(renamed, allow_new_levels=True, average=5, seed=3)
    np.testing.assert_allclose(mixed["probabilities"].reshape(-1, 3), wanted, atol=1e-12)
    known |= {"probabilities": False}
    _, best = decoded(rdoor.sequence_values(json.dumps(known), sent + codes(GROUPS)))
    assert [STATES[int(code)] for code in best["states"]] == fit.predict().tolist()


def test_deviances_and_new_effects(fit, reply):
    states = codes(DATA.state.map(STATES.index))
    known, sent = kept(reply, observed=True, q=len(LEVELS))
    _, found = decoded(rdoor.sequence_deviance(json.dumps(known), sent + codes(GROUPS) + states))
    assert found["deviance"][0] == pytest.approx(fit.deviance(), rel=1e-12)
    _, found = decoded(rdoor.update_sequences(json.dumps(known), sent + codes(GROUPS) + states))
    wanted = fit.update_ranef(DATA).ranef(condVar=True)
    effects = found["effects"].reshape(len(LEVELS), -1)
    np.testing.assert_allclose(effects, wanted["dyad"].loc[list(LEVELS)], atol=1e-10)
    sds = np.sqrt(np.einsum("qdd->qd", found["variances"].reshape(*effects.shape, -1)))
    np.testing.assert_allclose(sds, wanted.condsd()["dyad"].loc[list(LEVELS)], atol=1e-10)


def test_errors_are_sentences(reply):
    def error(answer):
        return json.loads(answer[0])["error"]

    assert error(ask(method="mcem")) == "method 'mcem' fits no sequences: use method = \"nme\"."
    assert "take fewer hidden units" in error(ask(nets=[{**NETWORK, "options": {"hidden": [60]}}]))
    known, sent = kept(reply)
    message = error(rdoor.sequence_values(json.dumps(known), sent + codes(np.arange(len(DATA)))))
    assert "has rows of several levels of 'dyad'" in message
