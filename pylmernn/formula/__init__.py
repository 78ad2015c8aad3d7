"""Formula text and data to the Design: the Python door of the package."""

from pylmernn.formula.build import build
from pylmernn.formula.design import Design, DesignError, make_design
from pylmernn.formula.formula import Formula, parse
from pylmernn.formula.frame import ModelFrame

__all__ = ["Design", "DesignError", "Formula", "ModelFrame", "build", "make_design", "parse"]
