"""The settings that R's ``control`` names, each in its own type."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from pylmernn.engines.control import Control
from pylmernn.engines.sampling_options import Sampling
from pylmernn.training.options import Training

DEVICES = ("auto", "cpu", "cuda")


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
#: those of the engine that mean something for generalized models
GENERALIZED = {name: kind for name, kind in ENGINE.items() if name != "probes"}
TRAINING = {name: kind for name, kind in _plain_settings(Training).items() if name != "seed"}
#: by R's name; training has a preset too
SAMPLING = {
    "sampling_preset" if name == "preset" else name: (name, kind) for name, kind in _plain_settings(Sampling).items()
}


def read_control(
    settings: Mapping[str, Any], device: str = "auto", seed: int | None = None, generalized: bool = False
) -> Control:
    """Settings by name, whole numbers as R sends them.

    Parameters
    ----------
    settings : mapping
        Fields of :class:`~pylmernn.engines.control.Control`, of its training and, for generalized models, of its
        sampling, whose ``preset`` is called ``sampling_preset``.
    device : {"auto", "cpu", "cuda"}
    seed : int, optional
    generalized : bool, default False

    Returns
    -------
    Control

    Raises
    ------
    ValueError
        For a setting that is not known or not of its type.
    """
    if device not in DEVICES:
        raise ValueError(f"device is '{device}': use one of {', '.join(DEVICES)}.")
    if device == "cuda":
        _require_cuda()
    engine = GENERALIZED if generalized else ENGINE
    known = [*engine, *TRAINING, *(SAMPLING if generalized else ())]
    for name in settings:
        if name not in known:
            model = " for generalized models" if generalized else ""
            raise ValueError(f"control has no setting '{name}'{model}: it has {', '.join(known)}.")
    chosen = {name: _setting(name, kind, settings[name]) for name, kind in engine.items() if name in settings}
    trained = {name: _setting(name, kind, settings[name]) for name, kind in TRAINING.items() if name in settings}
    sampled = {
        field: _setting(name, kind, settings[name]) for name, (field, kind) in SAMPLING.items() if name in settings
    }
    if seed is not None:
        chosen["seed"] = trained["seed"] = seed
    return Control(**chosen, device=device, training=Training(**trained), sampling=Sampling(**sampled))


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
