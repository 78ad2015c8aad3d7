"""The Python half of the R door: raw bytes and JSON in, raw bytes and JSON out.

reticulate converts arrays differently from version to version, and missing values wrongly in some; bytes survive all of
them. Every function here takes ``meta``, a JSON text, and ``buffers``, a list of bytearrays in the order in which
:mod:`pylmernn.rprotocol` takes them, and returns ``[JSON text, bytearray, ...]``. An error comes back as
``{"error": sentence}``, so that R can stop with that sentence and without a traceback.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.api import method_for, progress_bar, scales_differ
from pylmernn.engines import network_variance, pirls
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.methods import METHODS
from pylmernn.engines.pirls_variances import fixed_covariance, mode_variance
from pylmernn.engines.variances import conditional_variance as _conditional_variance
from pylmernn.engines.variances import prediction_variance as _prediction_variance
from pylmernn.families import read_family
from pylmernn.fit.effects import partial_dependence as _partial_dependence
from pylmernn.fit.importance import permutation_importance, target_of
from pylmernn.fit.networks import network_text, short_network_text
from pylmernn.fit.save import Parts, put_networks
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.glm import check_design, separation
from pylmernn.mean.networks import Networks, size_messages
from pylmernn.rprotocol import Reader, read_design, read_fit, read_networks, read_new_rows
from pylmernn.training.options import Training

FloatArray = NDArray[np.float64]
Reply = tuple[dict[str, Any], dict[str, FloatArray]]
DEVICES = ("auto", "cpu", "cuda")
Half = Callable[[dict[str, Any], "Reader"], Reply]


def _plain_settings(settings: type) -> dict[str, type]:
    """The fields of a class of settings that are a number, a text or a truth value (or None), and which of these."""
    out = {}
    for name, hint in typing.get_type_hints(settings).items():
        kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind in (int, float, str, bool)]
        if kinds:
            out[name] = kinds[0]
    return out


#: settings that ``control`` takes, and their types; the seed and the device are arguments of their own
ENGINE = {name: kind for name, kind in _plain_settings(Control).items() if name not in ("seed", "device")}
GENERALIZED = ("tolerance", "max_evaluations", "singular_tolerance", "dense_limit")
TRAINING = {name: kind for name, kind in _plain_settings(Training).items() if name != "seed"}


def answer(half: Half) -> Callable[..., list[Any]]:
    """Wrap a function on decoded arrays as one that R can call with text and bytes."""

    @functools.wraps(half)
    def call(meta: str, buffers: Sequence[bytearray], modules: Mapping[str, Any] | None = None) -> list[Any]:
        try:
            header, arrays = half(json.loads(meta), Reader(buffers, modules))
        except DesignError as error:
            return [json.dumps({"error": str(error)})]
        except MemoryError as error:
            return [json.dumps({"error": f"not enough memory for this model: {error}"})]
        except ValueError as error:
            return [json.dumps({"error": _sentence(str(error))})]
        except ImportError as error:
            return [json.dumps({"error": _sentence(_missing_package(error))})]
        except Exception as error:  # R must see one sentence whatever went wrong
            return [json.dumps({"error": _sentence(f"internal error in pylmernn: {type(error).__name__}: {error}")})]
        header["arrays"] = list(arrays)
        bodies = [bytearray(np.ascontiguousarray(values, dtype=np.float64).tobytes()) for values in arrays.values()]
        return [json.dumps(header), *bodies]

    return call


def _missing_package(error: ImportError) -> str:
    call = f'install_pylmernn(packages = "{error.name}")' if error.name else "install_pylmernn()"
    return f"{error}: {call} can add that package."


def _sentence(text: str) -> str:
    return " ".join(text.split())


@answer
def fit(meta: dict[str, Any], read: Reader) -> Reply:
    """Estimate a model.

    ``meta`` has the keys of :func:`read_design`, ``REML``, ``method``, ``control`` (a mapping of the fields of
    :class:`~pylmernn.engines.control.Control`), ``device``, ``seed``, ``progress``, and ``condVar``: whether variances
    of the conditional modes are wanted too. The reply names the dropped columns of X and the order of the terms.
    """
    method = meta["method"]
    if method not in ("auto", *METHODS):
        raise ValueError(f"method is '{method}': use one of auto, {', '.join(METHODS)}.")
    control = read_control(meta.get("control") or {}, meta.get("device", "auto"), meta.get("seed"))
    terms, design = read_design(meta, read)
    method = method_for(design, method, control)
    with progress_bar(bool(meta.get("progress")), method) as callback:
        estimates = METHODS[method](design, meta["REML"], control, callback=callback)
    header, arrays = _send_estimates(terms, design, estimates)
    if meta.get("condVar") and not _has_learned_features(design, estimates):
        arrays.update({f"v{k}": v for k, v in enumerate(_conditional_variance(design, estimates))})
    if estimates.networks is not None:
        header["networks"], kept = _send_networks(estimates.networks, design)
        arrays.update(kept)
    return header, arrays


@answer
def fit_generalized(meta: dict[str, Any], read: Reader) -> Reply:
    """Estimate a generalized linear mixed model.

    ``meta`` has the keys of :func:`~pylmernn.rprotocol.read_design`, ``family`` as text, ``nAGQ`` and ``control``. The
    response of a binomial model is the proportion of successes, its weights the numbers of trials. Beyond what
    :func:`fit` replies there are the family, its link and dispersion, ``vcov`` (p, p) from the curvature of the
    log-likelihood, and warnings.
    """
    family, nAGQ = read_family(meta["family"]), meta["nAGQ"]
    settings = meta.get("control") or {}
    for name in settings:
        if name not in GENERALIZED:
            raise ValueError(
                f"control has no setting '{name}' for generalized models: it has {', '.join(GENERALIZED)}."
            )
    control = read_control(settings)
    terms, design = read_design({**meta, "generalized": True}, read)
    check_design(design, family)
    try:
        estimates = pirls.fit(design, family, nAGQ, control)
    except np.linalg.LinAlgError as error:
        raise DesignError(
            f"the model cannot be fitted: {error}; look at the response, the link and the scales."
        ) from None
    header, arrays = _send_estimates(terms, design, estimates)
    header |= {"family": family.name, "link": family.link.name, "phi": estimates.phi, "nAGQ": nAGQ}
    header["has_dispersion"] = family.has_dispersion
    header["messages"] = separation(design, estimates)
    arrays["vcov"] = estimates.unscaled_vcov if nAGQ == 0 else fixed_covariance(design, estimates)
    arrays.update({f"v{k}": v for k, v in enumerate(mode_variance(design, estimates))})
    return header, arrays


def _send_estimates(terms: Sequence[RandomTerm], design: Design, estimates: Estimates) -> Reply:
    """What every fit replies: numbers, the order of the terms, the dropped columns, and arrays term by term."""
    header = {
        "scales_differ": scales_differ(design),
        "method": estimates.method,
        "order": [next(i for i, term in enumerate(terms) if term is chosen) for chosen in design.random],
        "dropped_at": list(design.dropped_at),
        "sigma": estimates.sigma,
        "objective": estimates.objective,
        "objective_error": estimates.objective_error,
        "ldL2": estimates.ldL2,
        "ldRX2": estimates.ldRX2,
        "pwrss": estimates.pwrss,
        "wrss": estimates.wrss,
        "ussq": estimates.ussq,
        "singular": estimates.singular,
        "convergence": {
            "converged": estimates.convergence.converged,
            "n_evaluations": estimates.convergence.n_evaluations,
            "message": estimates.convergence.message,
            "seconds": estimates.convergence.seconds,
        },
    }
    arrays = {
        "theta": estimates.theta,
        "beta": estimates.beta,
        "unscaled_vcov": estimates.unscaled_vcov,
        "gradient": estimates.convergence.gradient,
    }
    arrays.update({f"b{k}": b for k, b in enumerate(estimates.b)})
    arrays.update({f"u{k}": u for k, u in enumerate(estimates.u)})
    return header, arrays


def _has_learned_features(design: Design, estimates: Estimates) -> bool:
    return estimates.method == "lmmnn" and any(term.covariance == "embed" for term in design.random)


def _send_networks(networks: Networks, design: Design) -> Reply:
    """What R keeps of networks: texts that only Python reads, lines and history for people, arrays."""
    parts = Parts()
    state = put_networks(parts, networks)
    shapes = {name: [list(value.shape), str(value.dtype)] for name, value in parts.arrays.items()}
    header = {
        "state": json.dumps(state),
        "shapes": json.dumps(shapes),
        "lines": network_text(networks, design),
        "short_lines": short_network_text(networks),
        "history": {name: [_or_null(value) for value in values] for name, values in networks.history.items()},
        "messages": list(size_messages(networks)),
        "best_epoch": networks.best_epoch,
        "out_of_fold": networks.out_of_fold,
    }
    unseen = np.zeros(design.n)
    if networks.learned is not None:
        unseen[~networks.learned.any(axis=0)] = 1.0
    return header, {**parts.arrays, "held_out": unseen}


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value  # JSON has no NaN; null becomes NA in R


@answer
def network_values(meta: dict[str, Any], read: Reader) -> Reply:
    """The networks' part of the mean of ``meta["rows"]`` new rows: the networks, then the inputs of each."""
    networks = read_networks(meta, read)
    return {}, {"values": networks.values([read.matrix(meta["rows"], width) for width in meta["widths"]])}


@answer
def embedding_values(meta: dict[str, Any], read: Reader) -> Reply:
    """Effects of ``meta["group"]``, an ``embed(lon, lat)``, at new locations: the networks, then the coordinates."""
    networks = read_networks(meta, read)
    places = np.ascontiguousarray(read.matrix(meta["rows"], meta["width"]))
    found = [one for one in networks.embeddings if one is not None and one.group == meta["group"]]
    return {}, {"values": found[0].values(places)}


@answer
def importance(meta: dict[str, Any], read: Reader) -> Reply:
    """Permutation importance of the inputs of a fit's networks, and the lines of its summary that tell of it."""
    design, estimates = read_fit(meta, read)
    networks = _networks_of(estimates)
    target = target_of(design, estimates, networks)
    found = permutation_importance(design, networks, target, meta["n_repeats"], meta["seed"])
    table = found.table
    header = {
        "network": table["network"].tolist(),
        "input": table["input"].tolist(),
        "lines": network_text(networks, design, found),
    }
    return header, {"importance": table["importance"].to_numpy(), "se": table["se"].to_numpy()}


@answer
def partial_dependence(meta: dict[str, Any], read: Reader) -> Reply:
    """The mean of f against the inputs ``meta["inputs"]``; factors as level codes."""
    design, estimates = read_fit(meta, read)
    networks = _networks_of(estimates)
    table = _partial_dependence(design, networks, meta["inputs"], {}, meta["grid_size"], meta["seed"])
    return {}, {str(name): column.to_numpy() for name, column in table.items()}


def _networks_of(estimates: Estimates) -> Networks:
    if estimates.networks is None:
        raise DesignError("this model has no network.")
    return estimates.networks


@answer
def conditional_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """``Var(b | y)`` of a fitted model, sent as :func:`~pylmernn.rprotocol.read_fit` has it."""
    design, estimates = read_fit(meta, read)
    return {}, {f"v{k}": v for k, v in enumerate(_conditional_variance(design, estimates))}


@answer
def prediction_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """Variances of predictions, and ``noise``, that of a new response of weight 1 beyond them.

    After the fit come the new rows, as :func:`~pylmernn.rprotocol.read_new_rows` has them; ``meta["include"]`` says
    which random terms take part. Where networks are sent, their uncertainty counts.
    """
    design, estimates = read_fit(meta, read)
    rows = read_new_rows(meta, read, design)
    include = tuple(meta["include"])
    if estimates.networks is None:
        return {"noise": estimates.sigma**2}, {"variance": _prediction_variance(design, estimates, rows, include)}
    sizes = network_variance.calibrate(design, estimates, estimates.networks)
    variance = network_variance.prediction_variance(design, estimates, estimates.networks, rows, include, sizes)
    return {"noise": sizes.noise}, {"variance": variance}


def read_control(settings: Mapping[str, Any], device: str = "auto", seed: int | None = None) -> Control:
    """Settings by name, whole numbers as R sends them; ValueError names what is unknown."""
    if device not in DEVICES:
        raise ValueError(f"device is '{device}': use one of {', '.join(DEVICES)}.")
    if device == "cuda":
        _require_cuda()
    for name in settings:
        if name not in ENGINE and name not in TRAINING:
            raise ValueError(f"control has no setting '{name}': it has {', '.join([*ENGINE, *TRAINING])}.")
    chosen = {name: _setting(name, kind, settings[name]) for name, kind in ENGINE.items() if name in settings}
    trained = {name: _setting(name, kind, settings[name]) for name, kind in TRAINING.items() if name in settings}
    if seed is not None:
        chosen["seed"] = trained["seed"] = seed
    return Control(**chosen, device=device, training=Training(**trained))


def _setting(name: str, kind: type, value: Any) -> Any:
    """One setting in its own type; R sends whole numbers as doubles."""
    texts = isinstance(value, str) == (kind is str)
    if not texts or not isinstance(value, (int, float, str)) or (kind is int and value != int(value)):
        wanted = {int: "a whole number", float: "a number", str: "a text", bool: "TRUE or FALSE"}[kind]
        raise ValueError(f"control: {name} is {value!r} but must be {wanted}.")
    return kind(value)


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no CUDA device: use 'cpu' or 'auto'.")
