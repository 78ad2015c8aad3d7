"""The function users call: read the arguments, choose the method, return a fit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pylmernn.engines import exact
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import with_networks
from pylmernn.engines.methods import METHODS, NETWORK_METHODS, choose_method
from pylmernn.fit.mixedfit import MixedFit
from pylmernn.fit.state import fit_messages
from pylmernn.formula import build
from pylmernn.formula.design import Design, DesignError, FloatArray

if TYPE_CHECKING:
    import os

    from pylmernn.fit.varying import VaryingFit
    from pylmernn.fit.varying_several import SeveralFit
    from pylmernn.formula import ModelFrame

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
) -> MixedFit | VaryingFit | SeveralFit:
    """Fit a linear mixed model, as lme4's ``lmer``, with or without networks in its mean.

    Parameters
    ----------
    formula : str
        lme4's grammar, ``"y ~ x + (x | g)"``, and networks of columns, ``"y ~ x + nn(z1, z2) + (1 | g)"``; ``nn(.)``
        takes every column not used elsewhere. Arguments of ``nn``: hidden=c(100, 50, 25, 12), activation="silu",
        dropout=0, normalization="none", embedding=0, standardize=TRUE; or net="name", see ``nets``. A column may hold
        one array a row, all of one shape (a 2-D or 3-D array in a dict, a pandas column of arrays, a polars list): a
        network from these arguments takes its elements as numbers.
        ``gp(lon, lat, cov="exp_quad")`` is a Gaussian process over locations, alone or beside bars, with one standard
        deviation and one length-scale; cov may be "matern52", "matern32" or "exponential" too.
        Random terms of learned features, g(Z) of Simchoni & Rosset (2023): ``embed(1 | g, dim=100)``, where a level's
        effect is ``W_j b`` with W learned, and ``embed(lon, lat, dim=100, hidden=c(100, 100))``, where the features are
        a network of coordinates. Only method "lmmnn" learns them. Under a prior of W with independent entries of
        variance 1 / dim the effects of the levels are independent, so that every other method fits ``embed(1 | g)`` as
        ``(1 | g)``, which W is integrated out of; it then has nothing to overfit.
        Left of a bar a network stands for its parameters, which then vary by group: ``(nn | g)`` all of them,
        ``(nn.last | g)`` and ``(nn.first | g)`` those of a layer, ``(nn["layers.0.weight"] | g)`` one by its name; a
        network with ``net=tower`` is called ``tower``. Their covariance matrix is full up to 12 parameters and of
        reduced rank beyond, ``rr(nn | g, d = 4)``; ``(nn || g)`` takes variances only. Several such bars add up, nested
        or crossed, ``(nn.last | culture/person)``, and ordinary bars may stand beside them.
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
        By name, options, ``{"nn": {"hidden": (20, 10)}}`` (those in the formula come first), or a network of your own
        for ``nn(x, net="tower")``: ``{"tower": module}``. A torch module is copied for every fold, never changed, and
        its layers start from new weights by ``seed`` where they have ``reset_parameters()`` (frozen ones keep theirs);
        a class or function without arguments that returns a module is called for every fold, its weights kept.
        Its ``forward`` receives m rows: where every input is a number, one float32 tensor (m, k); else one tensor
        an input in the order of the formula: numbers (m,), factors as level codes (m,) in int64, arrays (m, *shape).
        Numbers are standardised, arrays by one centre and scale, or one for each entry of the last axis (the
        channels) where they have two axes or more. It returns (m,) or (m, 1).
    method : {"auto", "profiled", "iterative", "vecchia", "alternating", "lmmnn", "menets", "nme"}
        "profiled" is exact; "iterative" is for crossed factors with too many levels for that, "vecchia" for one field
        of too many locations: each is conditioned on its nearest neighbours (Vecchia, 1988). With networks:
        "alternating" trains them between exact steps on all rows; "lmmnn" on the mini-batch likelihood of Simchoni &
        Rosset (2023), with ``Training(preset="faithful")`` as their code does; "menets" is the EM algorithm of Xiong et
        al. (2019) for one grouping factor; "nme" lets parameters of the network vary by group (Woerner et al. 2023).
        "auto" chooses.
    control : Control, optional
        Tolerances of the engine and settings of the training.
    device : {"auto", "cpu", "cuda"}
        Where networks are trained (methods "alternating" and "menets") and the dense factor of a large crossed design
        is computed. "auto" is CUDA where there is one; the factor goes there from 2,000 random effects on. Everything
        else runs on the CPU.
    seed : int, optional
        Of the random vectors of the iterative method and of the training of networks.
    progress : bool, default False
        Show a progress bar with the objective on the standard error stream.

    Returns
    -------
    MixedFit, or VaryingFit where a network varies by group, SeveralFit where it does so by several bars

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
    control = _check_options(method, control, device, seed)
    design, frame = build(
        formula,
        data,
        weights=weights,
        offset=offset,
        subset=subset,
        na_action=na_action,
        contrasts=contrasts,
        nets=nets,
    )
    report_design(design)
    method = method_for(design, method, control)
    with progress_bar(progress, method) as callback:
        estimates: Any = METHODS[method](design, REML=REML, control=control, callback=callback)
    call = {
        "formula": formula, "data": data, "REML": REML, "weights": weights, "offset": offset, "subset": subset,
        "na_action": na_action, "contrasts": contrasts, "method": method, "control": control, "device": device,
        "seed": seed, "nets": nets,
    }  # fmt: skip
    if design.varying:
        return _varying_fit(design, estimates, frame, call)
    for message in fit_messages(estimates):
        warnings.warn(message, UserWarning, stacklevel=2)
    if estimates.networks is not None:
        design = with_networks(design, estimates.networks.fitted)
    if method == "lmmnn":
        design = exact.with_learned(design)
    return MixedFit(design, estimates, frame, call)


def _varying_fit(design: Design, estimates: Any, frame: ModelFrame, call: dict[str, Any]) -> VaryingFit | SeveralFit:
    """The fit of a network that varies by one bar alone, or by several."""
    from pylmernn.fit.varying import VaryingFit
    from pylmernn.fit.varying_several import SeveralFit

    alone = len(design.varying) == 1 and not design.random
    return (VaryingFit if alone else SeveralFit)(design, estimates, frame, call)


def load(path: str | os.PathLike[str], nets: Mapping[str, Any] | None = None, family: Any = None) -> MixedFit:
    """Read a fit that :meth:`MixedFit.save` wrote; no code of the file is run.

    Parameters
    ----------
    path : path
    nets : dict, optional
        Your own torch modules by name, as :func:`lmernn` took them. The file holds their weights, but not their code:
        without them everything works but what needs the networks at new rows, such as ``predict(newdata)``.
    family : UserFamily, optional
        Your own family, where the fit has one; a file does not hold its log-density.

    Returns
    -------
    MixedFit, GeneralizedFit or MultinomialFit

    Raises
    ------
    DesignError
        Where the file is not a saved fit, a module does not fit the saved weights, or its family is not given.
    """
    from pylmernn.fit import save

    return save.load(path, nets, family)


def _check_options(method: str, control: Control | None, device: str, seed: int | None) -> Control | None:
    if method != "auto" and method not in METHODS:
        raise DesignError(f"method is '{method}': use one of auto, {', '.join(METHODS)}.")
    return check_control(control, device, seed)


def check_control(control: Control | None, device: str, seed: int | None) -> Control | None:
    """The settings with a device and a seed; DesignError for what is none."""
    if device not in DEVICES:
        raise DesignError(f"device is '{device}': use one of {', '.join(DEVICES)}.")
    if control is not None and not isinstance(control, Control):
        raise DesignError(f"control is a {type(control).__name__}: use pylmernn.engines.control.Control(...).")
    if device == "cuda":
        _require_cuda()
    if device != "auto":
        control = dataclasses.replace(control or Control(), device=device)
    if seed is not None:
        control = control or Control()
        control = dataclasses.replace(control, seed=seed, training=dataclasses.replace(control.training, seed=seed))
    return control


def method_for(design: Design, method: str, control: Control | None) -> str:
    """The method asked for, or the one that suits the design."""
    if method == "auto":
        method = choose_method(design, control)
    located = [t.label for t in design.random if t.covariance == "embed" and t.locations is not None]
    if located and method != "lmmnn":
        raise DesignError(f"{located[0]}: its features are learned by method 'lmmnn' only, not by '{method}'.")
    if located and not design.nets:
        raise DesignError(f"{located[0]}: method 'lmmnn' trains it beside a network: add a term such as nn(x1, x2).")
    if design.varying and method != "nme":
        raise DesignError(f"{design.varying[0].label}: only method 'nme' lets a network vary by group, not '{method}'.")
    if method == "nme" and not design.varying:
        raise DesignError("method 'nme' is for networks that vary by group: add a bar such as (nn.last | person).")
    if design.nets and method not in NETWORK_METHODS:
        raise DesignError(f"method '{method}' fits no networks: use method='alternating', or take nn() out.")
    if not design.nets and method in NETWORK_METHODS:
        raise DesignError(f"method '{method}' is for networks: add a term such as nn(x1, x2), or use method='auto'.")
    return method


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
    for message in slopes_without_line(design):
        warnings.warn(message, UserWarning, stacklevel=3)
    if scales_differ(design):
        warnings.warn(
            "Some predictor variables are on very different scales: consider rescaling", UserWarning, stacklevel=3
        )


def slopes_without_line(design: Design) -> tuple[str, ...]:
    """A sentence for each column left of a bar that only a network has in the mean: b may take its average effect."""
    inputs = {name: net.label for net in design.nets for name in net.input_names}
    return tuple(
        f"'{name}' has random slopes in {term.label} and is an input of {inputs[name]}, but has no fixed effect: add "
        "it as a term of its own, or the random slopes may take its average effect"
        for term in design.random
        for name in term.column_names
        if name in inputs and name not in design.fixed_names
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
def progress_bar(show: bool, method: str, name: str = "lmernn") -> Iterator[Callable[[int, float], None] | None]:
    """A callback that moves a bar on the standard error stream; None where no bar is wanted."""
    if not show:
        yield None
        return
    from tqdm import tqdm

    unit, what = (
        (" epochs", "held-out error") if method in (*NETWORK_METHODS, "mcem") else (" evaluations", "objective")
    )
    with tqdm(desc=name, unit=unit, file=sys.stderr) as bar:

        def step(number: int, value: float) -> None:
            bar.set_postfix_str(f"{what} {value:.4f}", refresh=False)
            bar.update(1)

        yield step
