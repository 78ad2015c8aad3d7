"""Mixed models in lme4's words: formulas, fits and verbs, from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pylmernn import datasets
    from pylmernn.api import lmernn, load
    from pylmernn.engines.control import Control
    from pylmernn.families import UserFamily
    from pylmernn.fit.groupmetrics import group_metrics, paired_bootstrap
    from pylmernn.fit.hsic import hsic_test
    from pylmernn.fit.mixedfit import MixedFit
    from pylmernn.formula.design import DesignError
    from pylmernn.glm import glmernn

__all__ = [
    "Control",
    "DesignError",
    "MixedFit",
    "UserFamily",
    "__version__",
    "datasets",
    "glmernn",
    "group_metrics",
    "hsic_test",
    "lmernn",
    "load",
    "paired_bootstrap",
]

_HOMES = {
    "lmernn": "pylmernn.api",
    "glmernn": "pylmernn.glm",
    "load": "pylmernn.api",
    "MixedFit": "pylmernn.fit.mixedfit",
    "DesignError": "pylmernn.formula.design",
    "Control": "pylmernn.engines.control",
    "UserFamily": "pylmernn.families",
    "group_metrics": "pylmernn.fit.groupmetrics",
    "paired_bootstrap": "pylmernn.fit.groupmetrics",
    "hsic_test": "pylmernn.fit.hsic",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that importing the package costs next to nothing."""
    import importlib

    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name == "datasets":
        value = importlib.import_module("pylmernn.datasets")
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'pylmernn' has no attribute '{name}'")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pylmernn")
    except PackageNotFoundError:  # used from a checkout that is not installed: DESCRIPTION holds the one number
        from pathlib import Path

        text = (Path(__file__).parent.parent / "DESCRIPTION").read_text(encoding="utf-8")
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("Version:"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
