"""A fit in one file: arrays as safetensors, everything else as JSON text in its header. Loading runs no code."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pylmernn.engines.control import Control
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.engines.sampling_options import Sampling
from pylmernn.families import Family, FamilyError, read_family
from pylmernn.fit.save_draws import get_draws, put_draws
from pylmernn.fit.save_networks import get_networks, put_networks
from pylmernn.fit.save_table import get_table, put_table
from pylmernn.formula import ModelFrame
from pylmernn.formula.design import Design, DesignError, NetTerm, RandomTerm
from pylmernn.formula.varying import VaryingTerm, split_bars
from pylmernn.mean.networks import with_modules
from pylmernn.training.options import Training

if TYPE_CHECKING:
    from pylmernn.engines.nme import VaryingEstimates
    from pylmernn.fit.mixedfit import MixedFit
    from pylmernn.fit.multinomial import MultinomialFit
    from pylmernn.fit.varying import VaryingFit

FORMAT = "pylmernn fit"
#: Raised by one when a file of this version cannot be read by the last.
VERSION = 1


class Parts:
    """Arrays by name, and texts that are too long for a header as bytes."""

    def __init__(self, arrays: dict[str, np.ndarray] | None = None) -> None:
        self.arrays: dict[str, np.ndarray] = {} if arrays is None else arrays

    def put(self, name: str, value: np.ndarray | None) -> None:
        """Keep an array under a name; None is kept by absence."""
        if value is not None:
            self.arrays[name] = np.ascontiguousarray(value)

    def put_json(self, name: str, value: Any) -> None:
        """Keep JSON-able data."""
        self.arrays[name] = np.frombuffer(json.dumps(value).encode("utf-8"), dtype=np.uint8)

    def get_json(self, name: str) -> Any:
        """Data that :meth:`put_json` kept."""
        return json.loads(self.arrays[name].tobytes().decode("utf-8"))


def save(fit: MixedFit | MultinomialFit | VaryingFit, path: str | os.PathLike[str]) -> None:
    """Write a fit, whole or not at all: to a file beside it first, then into its place.

    Parameters
    ----------
    fit : MixedFit, MultinomialFit or VaryingFit
    path : path
    """
    from safetensors.numpy import save_file

    parts = Parts()
    meta = {
        "design": _put_design(parts, fit.design),
        "estimates": _put_estimates(parts, fit.estimates),
        "frame": fit.frame.to_dict(),
        "table": put_table(parts, fit.model_frame()),
        "call": _call_state(fit),
    }
    if hasattr(fit, "sequences"):
        from pylmernn.fit.save_sequences import put_rows

        put_rows(parts, fit.sequences)
    if getattr(fit, "added", None) is not None:
        from pylmernn.fit.save_varying import put_added

        put_added(parts, cast("VaryingFit", fit).added)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        header = {"format": FORMAT, "version": str(VERSION), "fit": json.dumps(meta)}
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # as any new file here; safetensors would make it the owner's alone
        save_file(parts.arrays, temporary, metadata=header)
        temporary.chmod(mode)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str], nets: Mapping[str, Any] | None = None, family: Family | None = None) -> Any:
    """Read a fit that :func:`save` wrote.

    Parameters
    ----------
    path : path
    nets : mapping, optional
        The user's own modules by name; a file holds their weights, but not their code.
    family : UserFamily, optional
        The user's own family, where the fit has one.

    Raises
    ------
    DesignError
        Where the file is not a saved fit, or one of a later version; for modules that its weights do not fit.
    FileNotFoundError
    """
    from safetensors import SafetensorError, safe_open

    from pylmernn.fit.generalized import GeneralizedFit
    from pylmernn.fit.mixedfit import MixedFit
    from pylmernn.fit.multinomial import MultinomialFit

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file '{path}'.")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            header = file.metadata() or {}
            parts = Parts({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except SafetensorError as error:
        raise DesignError(f"'{path}' is not a saved fit: {error}.") from None
    if header.get("format") != FORMAT:
        raise DesignError(f"'{path}' is a safetensors file, but not a saved fit.")
    if int(header["version"]) > VERSION:
        raise DesignError(f"'{path}' was written by a later version of pylmernn: update the package.")
    meta = json.loads(header["fit"])
    frame = ModelFrame.from_dict(meta["frame"], get_table(parts, meta["table"]))
    call = {**meta["call"], "data": None, "control": _control(meta["call"]["control"])}
    design, estimates = _get_design(parts, meta["design"]), _get_estimates(parts, meta["estimates"], family)
    if nets:
        design, estimates = _put_back(design, estimates, nets)
        call["nets"] = {**(call.get("nets") or {}), **nets}
    if isinstance(estimates, MultinomialEstimates):
        return MultinomialFit(design, estimates, frame, call)
    if "sequences" in meta["estimates"]:
        from pylmernn.fit.save_sequences import sequence_fit

        return sequence_fit(parts, design, cast("Any", estimates), frame, call)
    if design.varying:
        from pylmernn.fit.save_varying import get_added

        fit = _varying_fit(design, cast("VaryingEstimates", estimates), frame, call)
        fit.added = get_added(parts)  # type: ignore[assignment]
        return fit
    kind = GeneralizedFit if isinstance(estimates, GeneralizedEstimates) else MixedFit
    return kind(design, cast("Any", estimates), frame, call)


def _varying_fit(design: Design, estimates: VaryingEstimates, frame: ModelFrame, call: dict[str, Any]) -> VaryingFit:
    """A fit whose formula knows which of its bars are of networks."""
    from pylmernn.engines.nme_generalized import GeneralizedVaryingEstimates
    from pylmernn.engines.nme_working import is_generalized
    from pylmernn.fit.varying import VaryingFit
    from pylmernn.fit.varying_generalized import GeneralizedVaryingFit

    formula = split_bars(frame.formula, [net.name for net in design.nets], list(frame.frame.columns))
    frame = dataclasses.replace(frame, formula=formula)
    if isinstance(estimates, GeneralizedVaryingEstimates):
        return GeneralizedVaryingFit(design, estimates, frame, call)
    if is_generalized(estimates):
        from pylmernn.fit.varying_several_generalized import SeveralGeneralizedFit

        return cast("Any", SeveralGeneralizedFit(design, cast("Any", estimates), frame, call))
    if design.random or len(design.varying) > 1:
        from pylmernn.fit.varying_several import SeveralFit

        return cast("Any", SeveralFit(design, cast("Any", estimates), frame, call))
    return VaryingFit(design, estimates, frame, call)


def _put_back(design: Design, estimates: Any, nets: Mapping[str, Any]) -> tuple[Design, Any]:
    """A fit with the user's modules."""
    if estimates.networks is None:
        raise DesignError("the saved fit has no networks: read it without nets=.")
    networks = with_modules(estimates.networks, nets)
    terms = tuple(dataclasses.replace(net, module=nets.get(net.name)) for net in design.nets)
    return dataclasses.replace(design, nets=terms), dataclasses.replace(estimates, networks=networks)


def _call_state(fit: MixedFit | MultinomialFit | VaryingFit) -> dict[str, Any]:
    """The arguments that are plain text or numbers; arrays are in the design."""
    control = fit.call.get("control")
    state: dict[str, Any] = {k: v for k, v in fit.call.items() if v is None or isinstance(v, (str, bool, int, float))}
    options = {k: v for k, v in (fit.call.get("nets") or {}).items() if isinstance(v, Mapping)}
    state["nets"] = {name: dict(given) for name, given in options.items()} or None
    return {
        **state,
        "data_name": getattr(getattr(fit, "_header", None), "data", None),
        "control": None if control is None else dataclasses.asdict(control),
    }


def _control(state: dict[str, Any] | None) -> Control | None:
    if state is None:
        return None
    parts = {"training": Training(**state["training"]), "sampling": Sampling(**state.get("sampling", {}))}
    return Control(**{**state, **parts})


def _put_design(parts: Parts, design: Design) -> dict[str, Any]:
    for name in ("y", "X", "weights", "offset"):
        parts.put(f"design.{name}", getattr(design, name))
    for k, term in enumerate(design.random):
        parts.put(f"design.{k}.codes", term.codes)
        parts.put(f"design.{k}.columns", term.columns)
        parts.put_json(f"design.{k}.levels", [str(level) for level in term.levels])
        parts.put(f"design.{k}.locations", term.locations)
    return {
        "fixed_names": design.fixed_names,
        "dropped": design.dropped,
        "dropped_at": [int(j) for j in design.dropped_at],
        "response": design.response,
        "classes": design.classes,
        "random": [[t.group, t.column_names, t.covariance, t.label, t.options] for t in design.random],
        "nets": [_put_net(parts, k, net) for k, net in enumerate(design.nets)],
        "varying": [_put_bar(parts, k, term) for k, term in enumerate(design.varying)],
    }


def _put_net(parts: Parts, k: int, net: NetTerm) -> dict[str, Any]:
    parts.put(f"design.net.{k}", net.inputs)
    return {name: getattr(net, name) for name in ("label", "name", "input_names", "levels", "options", "shapes")}


def _get_net(parts: Parts, k: int, meta: dict[str, Any]) -> NetTerm:
    return NetTerm(
        label=meta["label"],
        name=meta["name"],
        inputs=parts.arrays[f"design.net.{k}"],
        input_names=tuple(meta["input_names"]),
        levels=tuple(meta["levels"]),
        options=meta["options"],
        shapes=tuple(tuple(shape) for shape in meta["shapes"]),
    )


def _put_bar(parts: Parts, k: int, term: VaryingTerm) -> dict[str, Any]:
    """Keep a bar under "varying.k."; returns the rest as JSON-able data."""
    parts.put(f"varying.{k}.codes", term.codes)
    parts.put_json(f"varying.{k}.levels", [str(level) for level in term.levels])
    return {name: getattr(term, name) for name in ("group", "net", "selector", "covariance", "label", "rank")}


def _get_bar(parts: Parts, k: int, meta: dict[str, Any]) -> VaryingTerm:
    """A bar that :func:`_put_bar` kept."""
    levels = np.array(parts.get_json(f"varying.{k}.levels"))
    return VaryingTerm(codes=parts.arrays[f"varying.{k}.codes"], levels=levels, **meta)


def _get_design(parts: Parts, meta: dict[str, Any]) -> Design:
    arrays = parts.arrays
    random = tuple(
        RandomTerm(
            group=group,
            codes=arrays[f"design.{k}.codes"],
            levels=np.array(parts.get_json(f"design.{k}.levels")),
            columns=arrays[f"design.{k}.columns"],
            column_names=tuple(names),
            covariance=covariance,
            label=label,
            locations=arrays.get(f"design.{k}.locations"),
            options=options,
        )
        for k, (group, names, covariance, label, options) in enumerate(meta["random"])
    )
    return Design(
        y=arrays["design.y"],
        X=arrays["design.X"],
        fixed_names=tuple(meta["fixed_names"]),
        random=random,
        weights=arrays.get("design.weights"),
        offset=arrays.get("design.offset"),
        dropped=tuple(meta["dropped"]),
        dropped_at=tuple(meta["dropped_at"]),
        response=meta["response"],
        classes=tuple(meta.get("classes", ())),
        nets=tuple(_get_net(parts, k, net) for k, net in enumerate(meta["nets"])),
        varying=tuple(_get_bar(parts, k, term) for k, term in enumerate(meta.get("varying", []))),
    )


_NUMBERS = ("sigma", "objective", "ldL2", "ldRX2", "pwrss", "wrss", "ussq", "objective_error")


def _put_estimates(parts: Parts, e: Estimates | MultinomialEstimates | VaryingEstimates) -> dict[str, Any]:
    if isinstance(e, MultinomialEstimates):
        from pylmernn.fit.save_multinomial import put_multinomial

        return {"multinomial": put_multinomial(parts, e)}
    if hasattr(e, "transitions"):
        from pylmernn.fit.save_sequences import put_sequences

        return {
            "sequences": put_sequences(parts, cast("Any", e)),
            "networks": put_networks(parts, cast("Any", e).networks),
        }
    if hasattr(e, "selected"):  # what varies by group needs torch, which linear models do without
        from pylmernn.fit.save_varying import put_varying

        e = cast("VaryingEstimates", e)
        return {"varying": put_varying(parts, e), "networks": put_networks(parts, e.networks)}
    for name in ("theta", "beta", "unscaled_vcov"):
        parts.put(f"estimates.{name}", getattr(e, name))
    for k, (b, u) in enumerate(zip(e.b, e.u, strict=True)):
        parts.put(f"estimates.{k}.b", b)
        parts.put(f"estimates.{k}.u", u)
    c = e.convergence
    parts.put("estimates.gradient", c.gradient)
    parts.put("estimates.numbers", np.array([getattr(e, name) for name in _NUMBERS]))  # exact, unlike decimal text
    generalized = None
    if isinstance(e, GeneralizedEstimates):
        parts.put("estimates.phi", np.atleast_1d(e.phi))
        generalized = {
            "family": str(e.family), "nAGQ": e.nAGQ, "several": bool(np.ndim(e.phi)),
            "mode_variances": e.mode_variances is not None,
            "draws": None if e.draws is None else put_draws(parts, e.draws),
        }  # fmt: skip
        for k, variance in enumerate(e.mode_variances or ()):
            parts.put(f"estimates.{k}.variance", variance)
    return {
        "generalized": generalized,
        "method": e.method, "REML": e.REML, "singular": e.singular, "converged": bool(c.converged),
        "n_evaluations": int(c.n_evaluations), "message": c.message, "seconds": c.seconds, "terms": len(e.b),
        "networks": None if e.networks is None else put_networks(parts, e.networks),
    }  # fmt: skip


def _read_generalized(parts: Parts, meta: dict[str, Any], terms: int, family: Family | None) -> dict[str, Any]:
    """What a generalized model has beyond a linear one."""
    chosen = named_family(meta["family"], family)
    phi, draws = parts.arrays["estimates.phi"], meta.get("draws")
    variances = (
        tuple(parts.arrays[f"estimates.{k}.variance"] for k in range(terms)) if meta.get("mode_variances") else None
    )
    return {
        "family": chosen,
        "nAGQ": meta["nAGQ"],
        "phi": phi if meta.get("several") else float(phi[0]),
        "mode_variances": variances,
        "draws": None if draws is None else get_draws(parts, draws),
    }


def _get_estimates(
    parts: Parts, meta: dict[str, Any], family: Family | None = None
) -> Estimates | MultinomialEstimates | VaryingEstimates:
    if "multinomial" in meta:
        from pylmernn.fit.save_multinomial import get_multinomial

        return get_multinomial(parts, meta["multinomial"])
    if "sequences" in meta:
        from pylmernn.fit.save_sequences import get_sequences

        return cast("Any", get_sequences(parts, meta["sequences"], get_networks(parts, meta["networks"])))
    if "varying" in meta:
        from pylmernn.fit.save_varying import get_varying

        return cast("Any", get_varying(parts, meta["varying"], get_networks(parts, meta["networks"]), family))
    arrays, terms = parts.arrays, range(meta["terms"])
    convergence = Convergence(
        converged=meta["converged"],
        gradient=arrays["estimates.gradient"],
        n_evaluations=meta["n_evaluations"],
        message=meta["message"],
        seconds=meta["seconds"],
    )
    numbers: dict[str, Any] = {name: float(v) for name, v in zip(_NUMBERS, arrays["estimates.numbers"], strict=True)}
    generalized = meta.get("generalized")
    if generalized is not None:
        numbers |= _read_generalized(parts, generalized, len(terms), family)
    kind = Estimates if generalized is None else GeneralizedEstimates
    return kind(
        method=meta["method"],
        REML=meta["REML"],
        theta=arrays["estimates.theta"],
        beta=arrays["estimates.beta"],
        unscaled_vcov=arrays["estimates.unscaled_vcov"],
        b=tuple(arrays[f"estimates.{k}.b"] for k in terms),
        u=tuple(arrays[f"estimates.{k}.u"] for k in terms),
        singular=meta["singular"],
        convergence=convergence,
        networks=None if meta["networks"] is None else get_networks(parts, meta["networks"]),
        **numbers,
    )


def named_family(name: str, family: Family | None) -> Family:
    """The family of that name, or the user's own where it has it.

    Raises
    ------
    DesignError
        Where it is the user's own and not given.
    """
    try:
        return read_family(name)
    except FamilyError:
        if family is None or str(family) != name:
            raise DesignError(
                f"the fit has a family of your own, {name}, whose log-density a file does not hold: read it "
                "by pylmernn.load(path, family=...)."
            ) from None
        return family
