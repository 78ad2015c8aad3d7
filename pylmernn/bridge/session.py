"""One R inside this Python process: started on first use, refused where it would end the process."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PINS = "'rpy2>=3.6,<3.6.7' 'rpy2-rinterface<3.6.6'"


class BridgeError(RuntimeError):
    """R could not be started, or R stopped with an error; the message is one sentence, or R's own."""


@dataclass(frozen=True)
class Answer:
    """What R gave back.

    Attributes
    ----------
    value : rpy2 object
    messages, warnings : tuple of str
        What R said meanwhile, in order.
    """

    value: Any
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


class Session:
    """The running R and its helper functions; get it from :func:`session`."""

    def __init__(self, rinterface: Any) -> None:
        self.ri = rinterface
        self.thread = threading.get_ident()
        self.helpers = rinterface.evalr("new.env()")
        text = (Path(__file__).parent / "helpers.R").read_text(encoding="utf-8")
        rinterface.baseenv["eval"](rinterface.parse(text), self.helpers)

    def call(self, helper: str, *arguments: Any) -> Any:
        """A function of helpers.R, on rpy2 objects."""
        return self.helpers[helper](*arguments)

    def place(self) -> Any:
        """A new R environment to put variables into."""
        return self.call("new_place")

    def run(self, code: str, place: Any) -> Answer:
        """Evaluate R code in an environment.

        Raises
        ------
        BridgeError
            With R's message, where the code stops.
        """
        value, messages, warnings, failure = self.call("run", self.text(code), place)
        if failure != self.ri.NULL:
            raise BridgeError(f"R stopped: {failure[0]}")
        return Answer(value, tuple(messages), tuple(warnings))

    def text(self, *strings: str) -> Any:
        """A character vector."""
        return self.ri.StrSexpVector(strings)

    def attach(self, *packages: str) -> None:
        """``library()`` for each package.

        Raises
        ------
        BridgeError
            Naming the package that is not installed.
        """
        for package in packages:
            try:
                self.run(f"library({package})", self.ri.globalenv)
            except BridgeError as error:
                raise BridgeError(
                    f"the R package {package} is not there: install it, as in R's install.packages('{package}'); "
                    f"{error}"
                ) from None


_session: Session | None = None


def session() -> Session:
    """The R of this process, started if need be.

    Returns
    -------
    Session

    Raises
    ------
    BridgeError
        Where this Python runs inside R (a second R would end the process), where rpy2 cannot be imported, or where R
        was started on another thread.
    """
    global _session
    if _session is None:
        _session = Session(_start())
    if _session.thread != threading.get_ident():
        raise BridgeError("R runs on the thread that used it first: call the bridge from that thread only.")
    return _session


def _start() -> Any:
    if _inside_r():
        raise BridgeError(
            "this Python runs inside R, and a second R in one process would end it: use lme4 in R directly."
        )
    # R packages may bring another OpenMP; torch has to load its own first.
    import torch  # noqa: F401

    try:
        import rpy2.rinterface as rinterface
    except Exception as error:  # rpy2 fails in many ways where it does not fit the R it finds
        raise BridgeError(
            f"rpy2 cannot be imported ({type(error).__name__}: {error}). It needs R on the PATH, and on R before 4.5 "
            f"older versions of both its parts: pip install {_PINS}."
        ) from error
    rinterface.initr()
    return rinterface


def _inside_r() -> bool:
    """Whether an R session started this process, as reticulate announces it: ``PID=123:NAME="reticulate"``."""
    for item in os.environ.get("R_SESSION_INITIALIZED", "").split(":"):
        key, _, value = item.partition("=")
        if key == "PID" and value.strip('"') == str(os.getpid()):
            return True
    return False
