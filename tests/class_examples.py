"""A small multinomial model with estimates of made-up size, for tests of what is read off a fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch

from pylmernn.engines.chains import Draws
from pylmernn.engines.estimates import Convergence
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit.multinomial import MultinomialFit
from pylmernn.formula import build
from pylmernn.mean.networks import Networks, specify, weights_of
from pylmernn.mean.networks import build as make

CLASSES = ("bus", "car", "walk")
FORMULA = "way ~ x + (x | g) + (1 | h)"


def centred(values):
    """Values that sum to zero along their last axis, the classes."""
    return values - values.mean(axis=-1, keepdims=True)


def class_data(n=300, seed=3):
    """Rows with a number x, factors g of 12 and h of 5 levels, and a response that does not depend on them."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "way": np.array(CLASSES)[rng.permutation(np.arange(n) % 3)],
            "x": rng.normal(size=n).round(3),
            "g": np.char.add("g", (np.arange(n) % 12).astype(str)),
            "h": np.char.add("h", (np.arange(n) // 7 % 5).astype(str)),
        }
    )


def class_design(formula=FORMULA, data=None):
    """Design and model frame, with class codes for response."""
    return build(formula, class_data() if data is None else data, family="multinomial")


def class_draws(design, b, covariances, chains=2, draws=40, seed=5, **changes):
    """Draws around given effects."""
    rng = np.random.default_rng(seed)
    spread = [value + 0.2 * rng.normal(size=(chains, draws, *value.shape)) for value in b]
    flat = np.concatenate([np.einsum("cdd->dc", S).ravel() for S in covariances])
    names = tuple(
        f"var({term.group}.{column}.{name})" for term in design.random for column in term.column_names
        for name in design.classes
    )  # fmt: skip
    settings = {
        "b": tuple(value.astype(np.float32) for value in spread),
        "variances": flat * np.exp(0.3 * rng.normal(size=(chains, draws, len(flat)))),
        "names": names, "rhat": 1.02, "ess": 160.0, "divergences": 0, "accept": 1.0, "sampler": "polya-gamma",
        "n_chains": chains, "n_draws": draws,
    }  # fmt: skip
    return Draws(**{**settings, **changes})


def class_estimates(design, seed=7, networks=None, **changes):
    """Estimates with numbers of a plausible size."""
    rng = np.random.default_rng(seed)
    C, p = len(design.classes), design.p
    b = tuple(centred(rng.normal(scale=0.8, size=(t.n_levels, t.width, C))) for t in design.random)
    roots = [0.5 * rng.normal(size=(C, t.width, t.width)) + 0.7 * np.eye(t.width) for t in design.random]
    covariances = tuple(L @ L.transpose(0, 2, 1) for L in roots)
    beta = centred(rng.normal(size=(p, C)))
    contrast = np.eye(C) - 1.0 / C
    A = rng.normal(size=(p * C, p * C))
    project = np.kron(np.eye(p), contrast)
    eta = design.X @ beta + sum(
        np.einsum("nd,ndc->nc", t.columns, value[t.codes]) for t, value in zip(design.random, b, strict=True)
    )
    draws = changes.pop("draws", {})
    return MultinomialEstimates(
        method="mcem",
        classes=design.classes,
        beta=beta,
        fixed_covariance=changes.pop("fixed_covariance", 0.01 * project @ A @ A.T @ project),
        b=b,
        variances=tuple(rng.uniform(0.05, 0.3, value.shape) for value in b),
        covariances=covariances,
        covariance_errors=tuple(rng.uniform(0.2, 0.5, (C, t.width)) for t in design.random),
        eta=eta if networks is None else eta + networks.fitted,
        draws=class_draws(design, b, covariances, **draws),
        convergence=Convergence(True, np.empty(0), 100, "the variances have settled", 1.0),
        networks=networks,
    )


def class_fit(formula=FORMULA, data=None, **changes):
    """A fit of these estimates, networks with fresh weights included."""
    data = class_data() if data is None else data
    data.attrs["name"] = "ways"
    design, frame = class_design(formula, data)
    if design.nets:
        changes["networks"] = class_networks(design)
    call = {"formula": formula, "data": data, "family": "multinomial", "method": "mcem", "control": None}
    return MultinomialFit(design, class_estimates(design, **changes), frame, call)


def class_networks(design, seed=1):
    """Networks with an output for each class and fresh weights."""
    torch.manual_seed(seed)
    specs = tuple(specify(net, outputs=len(design.classes)) for net in design.nets)
    history = {"member": [0.0, 0.0], "epoch": [1.0, 2.0], "loss": [1.1, 1.0], "validation": [1.2, 1.1]}
    networks = Networks(
        specs=specs, members=(tuple(weights_of(make(spec)) for spec in specs),), scale=1.5, shift=(0.1, 0.2, -0.3),
        fitted=np.zeros((design.n, len(design.classes))), history=history, best_epoch=(2,), out_of_fold=False,
        criterion="mean deviance",
    )  # fmt: skip
    return dataclasses.replace(networks, fitted=networks.values([net.inputs for net in design.nets]))
