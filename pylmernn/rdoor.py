"""The Python half of the R door: raw bytes and JSON in, raw bytes and JSON out.

reticulate converts arrays differently from version to version, and missing values wrongly in some; bytes survive all of
them. Every function here takes ``meta``, a JSON text, and ``buffers``, a list of bytearrays in the order in which
:class:`Reader` takes them, and returns ``[JSON text, bytearray, ...]``. An error comes back as ``{"error": sentence}``,
so that R can stop with that sentence and without a traceback.
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
from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.methods import METHODS
from pylmernn.engines.variances import conditional_variance as _conditional_variance
from pylmernn.engines.variances import prediction_variance as _prediction_variance
from pylmernn.fit.networks import network_text
from pylmernn.fit.save import Parts, get_networks, put_networks
from pylmernn.formula.design import Design, DesignError, NetTerm, NewRows, NewTerm, RandomTerm, make_design
from pylmernn.mean.networks import Networks, size_messages, with_modules
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
TRAINING = {name: kind for name, kind in _plain_settings(Training).items() if name != "seed"}


class Reader:
    """Takes arrays off a list of byte buffers, one after the other.

    Parameters
    ----------
    buffers : sequence of bytes-like
        Doubles, or int32 for codes, as R's ``writeBin`` writes them.
    modules : mapping of str to torch.nn.Module or callable, optional
        The user's own networks by name.
    """

    def __init__(self, buffers: Sequence[bytearray], modules: Mapping[str, Any] | None = None) -> None:
        self._buffers = iter(buffers)
        self.modules = dict(modules or {})

    def vector(self) -> FloatArray:
        """The next buffer as doubles; a view, not a copy."""
        return np.frombuffer(next(self._buffers), dtype=np.float64)

    def matrix(self, rows: int, columns: int) -> FloatArray:
        """A matrix column by column, as R stores it; in several buffers where one would be beyond R's 2 GB."""
        parts: list[FloatArray] = []
        while sum(map(len, parts)) < rows * columns:
            parts.append(self.vector())
        flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
        return flat.reshape((rows, columns), order="F")

    def integers(self) -> NDArray[np.int32]:
        """The next buffer as 32-bit integers."""
        return np.frombuffer(next(self._buffers), dtype=np.int32)


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
    if meta.get("condVar"):
        arrays.update({f"v{k}": v for k, v in enumerate(_conditional_variance(design, estimates))})
    if estimates.networks is not None:
        header["networks"], kept = _send_networks(estimates.networks, design)
        arrays.update(kept)
    return header, arrays


def _send_networks(networks: Networks, design: Design) -> Reply:
    """What R keeps of networks: texts that only Python reads, lines and history for people, arrays."""
    parts = Parts()
    state = put_networks(parts, networks)
    shapes = {name: [list(value.shape), str(value.dtype)] for name, value in parts.arrays.items()}
    header = {
        "state": json.dumps(state),
        "shapes": json.dumps(shapes),
        "lines": network_text(networks, design),
        "history": networks.history,
        "messages": list(size_messages(networks)),
    }
    return header, parts.arrays


@answer
def network_values(meta: dict[str, Any], read: Reader) -> Reply:
    """The networks' part of the mean of ``meta["rows"]`` new rows: the arrays R kept, then each network's inputs."""
    shapes = json.loads(meta["shapes"])
    arrays = {name: read.vector().astype(shapes[name][1]).reshape(shapes[name][0]) for name in meta["names"]}
    networks = with_modules(get_networks(Parts(arrays), json.loads(meta["state"])), read.modules)
    lacking = [spec for spec in networks.specs if spec.lacks_module]
    if lacking:
        raise DesignError(
            f"the network '{lacking[0].name}' is a module of your own ({lacking[0].class_name}), which a fit read from "
            "a file does not hold: fit the model again in this session."
        )
    return {}, {"values": networks.values([read.matrix(meta["rows"], width) for width in meta["widths"]])}


@answer
def conditional_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """``Var(b | y)`` of a fitted model: the buffers of its design, then theta; ``meta`` also has ``sigma``."""
    _, design = read_design(meta, read)
    variances = _conditional_variance(design, _known_estimates(meta, read))
    return {}, {f"v{k}": v for k, v in enumerate(variances)}


@answer
def prediction_variance(meta: dict[str, Any], read: Reader) -> Reply:
    """Variance of predictions for ``meta["rows"]`` new rows.

    After the buffers of the design and theta come X of the new rows and, for each term in the fit's order, its codes
    (-1: unseen level), columns and, where its levels are locations, coordinates.
    """
    _, design = read_design(meta, read)
    estimates = _known_estimates(meta, read)
    m = meta["rows"]
    X = read.matrix(m, design.p)
    terms = tuple(_read_new_term(term, m, read) for term in design.random)
    rows = NewRows(X=X, offset=np.zeros(m), random=terms)
    return {}, {"variance": _prediction_variance(design, estimates, rows, tuple(meta["include"]))}


def _read_new_term(term: RandomTerm, m: int, read: Reader) -> NewTerm:
    codes, columns = read.integers(), read.matrix(m, term.width)
    places = None if term.locations is None else np.ascontiguousarray(read.matrix(m, term.locations.shape[1]))
    return NewTerm(codes=codes, columns=columns, locations=places)


def read_design(meta: Mapping[str, Any], read: Reader) -> tuple[list[RandomTerm], Design]:
    """The terms as sent and the checked design.

    Parameters
    ----------
    meta : mapping
        ``n``, ``response``, ``fixed_names``, ``weights`` and ``offset`` (whether there are any) and ``terms``, each
        with ``group``, ``n_levels``, ``names``, ``covariance``, ``label``, ``constant`` (a plain intercept: no columns
        are sent), ``options`` and ``locations`` (how many coordinates a level has, 0 for none).
    read : Reader
        y, X, weights, offset, then codes, columns and locations of each term, then the inputs of each network
        (``nets``).
    """
    n = meta["n"]
    y = read.vector()
    X = read.matrix(n, len(meta["fixed_names"]))
    weights = read.vector() if meta["weights"] else None
    offset = read.vector() if meta["offset"] else None
    terms = [_read_term(term, n, read) for term in meta["terms"]]
    nets = [_read_network(net, n, read) for net in meta.get("nets") or []]
    return terms, make_design(y, X, meta["fixed_names"], terms, weights, offset, meta["response"], nets)


def _read_network(meta: Mapping[str, Any], n: int, read: Reader) -> NetTerm:
    """One network; ``shapes`` says which of its columns are the elements of a matrix column, ``[[], [8]]``."""
    names = tuple(meta["names"])
    return NetTerm(
        label=meta["label"],
        name=meta["name"],
        inputs=read.matrix(n, len(names)),
        input_names=names,
        levels=tuple(meta["levels"]),
        options=dict(meta["options"]),
        shapes=tuple(tuple(shape) for shape in meta.get("shapes") or ()),
        module=read.modules.get(meta["name"]),
    )


def _read_term(meta: Mapping[str, Any], n: int, read: Reader) -> RandomTerm:
    q, k = meta["n_levels"], meta.get("locations") or 0
    return RandomTerm(
        group=meta["group"],
        codes=read.integers(),
        levels=np.arange(q),  # their names stay in R
        columns=np.ones((n, 1)) if meta["constant"] else read.matrix(n, len(meta["names"])),
        column_names=tuple(meta["names"]),
        covariance=meta["covariance"],
        label=meta["label"],
        locations=np.ascontiguousarray(read.matrix(q, k)) if k else None,
        options=dict(meta.get("options") or {}),
    )


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


def _known_estimates(meta: Mapping[str, Any], read: Reader) -> Estimates:
    """Estimates that carry theta and sigma, which is all that variances are computed from."""
    nothing = np.empty(0)
    return Estimates(
        method=meta["method"],
        REML=meta["REML"],
        theta=read.vector(),
        beta=nothing,
        sigma=meta["sigma"],
        b=(),
        u=(),
        unscaled_vcov=nothing,
        objective=np.nan,
        ldL2=np.nan,
        ldRX2=np.nan,
        pwrss=np.nan,
        wrss=np.nan,
        ussq=np.nan,
        singular=False,
        convergence=Convergence(converged=True, gradient=nothing, n_evaluations=0, message="", seconds=0.0),
    )
