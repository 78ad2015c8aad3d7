"""The function users call: read the arguments, choose the method, return a fit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pylmernn.engines.control import Control
from pylmernn.engines.methods import METHODS, choose_method
from pylmernn.fit.mixedfit import MixedFit
from pylmernn.fit.state import fit_messages
from pylmernn.formula import build
from pylmernn.formula.design import Design, DesignError, FloatArray

if TYPE_CHECKING:
    import os

DEVICES = ("auto", "cpu", "cuda")
#: Columns of X whose standard deviations differ by more than this factor are on very different scales (lme4's 1e3).
SCALE_RATIO = 1e3


def lmernn(
    formula: str,
    data: Any,
    REML: bool = True,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    nets: Mapping[str, Any] | None = None,
    method: str = "auto",
    control: Control | None = None,
    device: str = "auto",
    seed: int | None = None,
    progress: bool = False,
) -> MixedFit:
    """Fit a linear mixed model, as lme4's ``lmer``.

    Parameters
    ----------
    formula : str
        lme4's grammar: ``"y ~ x + (x | g)"``.
    data : DataFrame
        pandas, polars, a dict of arrays, or anything narwhals reads. Never changed.
    REML : bool, default True
        Restricted maximum likelihood, else maximum likelihood.
    weights : str or array, optional
        Prior weights, positive: a column, an expression of columns, or values. ``Var(e_i) = sigma^2 / weights_i``.
    offset : str or array, optional
        Known part of the mean.
    subset : str or array, optional
        A condition such as ``"x > 3"``, booleans, or row positions.
    na_action : {"omit", "exclude", "fail"}
        Rows with missing values: leave them out; leave them out and give NaN for them in ``fitted``, ``residuals`` and
        ``predict``; or refuse.
    contrasts : dict, optional
        Contrasts by variable: ``"treatment"``, ``"sum"``, ``"helmert"``, ``"poly"``, or a matrix.
    nets : dict, optional
        Options of networks; this version fits models without them.
    method : {"auto", "profiled", "iterative"}
        "profiled" is exact; "iterative" is for crossed factors with too many levels for that; "auto" chooses.
    control : Control, optional
        Tolerances of the engine.
    device : {"auto", "cpu", "cuda"}
        Where the dense factor of a large crossed design is computed. "auto" is CUDA where there is one and at least
        2,000 random effects are left after the first elimination; everything else runs on the CPU.
    seed : int, optional
        Of the random vectors of the iterative method.
    progress : bool, default False
        Show a progress bar with the objective on the standard error stream.

    Returns
    -------
    MixedFit

    Raises
    ------
    DesignError
        For input that makes no mixed model; the message names the term, column or level.

    Warns
    -----
    UserWarning
        For a singular fit, failed convergence, dropped columns of a rank deficient X, or predictors on very different
        scales.

    Examples
    --------
    >>> import pylmernn
    >>> fit = pylmernn.lmernn("Reaction ~ Days + (Days | Subject)", pylmernn.datasets.load("sleepstudy"))
    >>> round(fit.REMLcrit(), 3)
    1743.628
    """
    control = _check_options(nets, method, control, device, seed)
    design, frame = build(
        formula, data, weights=weights, offset=offset, subset=subset, na_action=na_action, contrasts=contrasts
    )
    report_design(design)
    if method == "auto":
        method = choose_method(design, control)
    with _progress_bar(progress) as callback:
        estimates = METHODS[method](design, REML=REML, control=control, callback=callback)
    call = {
        "formula": formula, "data": data, "REML": REML, "weights": weights, "offset": offset, "subset": subset,
        "na_action": na_action, "contrasts": contrasts, "method": method, "control": control, "device": device,
        "seed": seed,
    }  # fmt: skip
    for message in fit_messages(estimates):
        warnings.warn(message, UserWarning, stacklevel=2)
    return MixedFit(design, estimates, frame, call)


def load(path: str | os.PathLike[str]) -> MixedFit:
    """Read a fit that :meth:`MixedFit.save` wrote; no code of the file is run.

    Parameters
    ----------
    path : path

    Returns
    -------
    MixedFit

    Raises
    ------
    DesignError
        Where the file is not a saved fit.
    """
    from pylmernn.fit import save

    return save.load(path)


def _check_options(
    nets: Mapping[str, Any] | None, method: str, control: Control | None, device: str, seed: int | None
) -> Control | None:
    if nets:
        raise DesignError("nets is for formulas with nn(...): this version fits models without networks.")
    if method != "auto" and method not in METHODS:
        raise DesignError(f"method is '{method}': use one of auto, {', '.join(METHODS)}.")
    if device not in DEVICES:
        raise DesignError(f"device is '{device}': use one of {', '.join(DEVICES)}.")
    if control is not None and not isinstance(control, Control):
        raise DesignError(f"control is a {type(control).__name__}: use pylmernn.engines.control.Control(...).")
    if device == "cuda":
        _require_cuda()
    if device != "auto":
        control = dataclasses.replace(control or Control(), device=device)
    if seed is not None:
        control = dataclasses.replace(control or Control(), seed=seed)
    return control


def report_design(design: Design) -> None:
    """Warn as lme4 does about X: which columns were dropped, and whether scales differ wildly."""
    if design.dropped:
        columns = "columns / coefficients" if len(design.dropped) > 1 else "column / coefficient"
        warnings.warn(
            f"fixed-effect model matrix is rank deficient so dropping {len(design.dropped)} {columns}: "
            f"{', '.join(design.dropped)}",
            UserWarning,
            stacklevel=3,
        )
    if scales_differ(design):
        warnings.warn(
            "Some predictor variables are on very different scales: consider rescaling", UserWarning, stacklevel=3
        )


def scales_differ(design: Design) -> bool:
    """Whether the standard deviations of the columns that are not all 0 and 1 lie too far apart, or from 1."""
    sd = [_sd(column) for column in design.X.T if not _is_binary(column)]
    return bool(sd) and _spread(sd) > SCALE_RATIO


def _spread(sd: list[float]) -> float:
    """The largest ratio among the standard deviations and 1."""
    return max(max(sd) / min(sd), max(sd), 1 / min(sd)) if min(sd) > 0 else 0.0


def _is_binary(column: FloatArray) -> bool:
    def binary(part: FloatArray) -> bool:
        return bool(((part == 0) | (part == 1)).all())

    return binary(column[:50]) and binary(column)  # most columns that are not are seen at once


def _sd(column: FloatArray) -> float:
    mean = float(column.mean())
    variance = float(column @ column) / len(column) - mean * mean
    if variance < 1e-6 * mean * mean:  # cancellation: go the long way
        variance = float(((column - mean) ** 2).mean())
    return math.sqrt(variance)


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise DesignError("device is 'cuda', but torch finds no CUDA device: use device='cpu' or 'auto'.")


@contextlib.contextmanager
def _progress_bar(show: bool) -> Iterator[Callable[[int, float], None] | None]:
    """A callback that moves a bar; None where no bar is wanted."""
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="lmernn", unit=" evaluations", file=sys.stderr) as bar:

        def step(evaluation: int, objective: float) -> None:
            bar.set_postfix_str(f"objective {objective:.4f}", refresh=False)
            bar.update(evaluation - bar.n)

        yield step
