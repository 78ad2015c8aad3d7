"""The syntax tree of a formula, and R's way of writing it back as text (which also makes the coefficient names)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SYNTACTIC = re.compile(r"(?:[^\W\d_]|\.(?!\d))[\w.]*\Z")
_RESERVED = frozenset([
    "if", "else", "repeat", "while", "function", "for", "next",
    "break", "TRUE", "FALSE", "NULL", "Inf", "NaN", "NA",
])  # fmt: skip
_SPACED = frozenset(["+", "-", "*", "<", ">", "<=", ">=", "==", "!=", "&", "&&", "|", "||", "~"])


@dataclass(frozen=True)
class Name:
    """A column, or the name of an option."""

    id: str


@dataclass(frozen=True)
class Number:
    """A number; ``integer`` marks R's ``3L``."""

    value: float
    integer: bool = False


@dataclass(frozen=True)
class String:
    """A text in quotes."""

    value: str


@dataclass(frozen=True)
class Constant:
    """TRUE, FALSE, NULL, NA, Inf or NaN."""

    id: str


@dataclass(frozen=True)
class Argument:
    """One argument of a call, with its name where it was given one."""

    value: Node
    name: str | None = None


@dataclass(frozen=True)
class Call:
    """A function call."""

    function: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Unary:
    """``-x``, ``+x``, ``!x`` or a one-sided ``~ x``."""

    operator: str
    operand: Node


@dataclass(frozen=True)
class Binary:
    """Two operands and the operator between them."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Paren:
    """Parentheses the user wrote; they are kept because R's names keep them."""

    inner: Node


Node = Name | Number | String | Constant | Call | Unary | Binary | Paren


def deparse(node: Node) -> str:
    """The text R would print for this expression, ``I(x^2 + 1)``."""
    if isinstance(node, Name):
        return quote_name(node.id)
    if isinstance(node, Number):
        return r_number(node.value) + ("L" if node.integer else "")
    if isinstance(node, String):
        return '"' + node.value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(node, Constant):
        return node.id
    if isinstance(node, Paren):
        return f"({deparse(node.inner)})"
    if isinstance(node, Unary):
        return node.operator + deparse(node.operand)
    if isinstance(node, Binary):
        spaced = node.operator in _SPACED or node.operator.startswith("%")
        gap = " " if spaced else ""
        return f"{deparse(node.left)}{gap}{node.operator}{gap}{deparse(node.right)}"
    inside = ", ".join(
        (f"{quote_name(a.name)} = " if a.name is not None else "") + deparse(a.value) for a in node.arguments
    )
    if node.function == "[":
        first, _, rest = inside.partition(", ")
        return f"{first}[{rest}]"
    return f"{quote_name(node.function)}({inside})"


def quote_name(name: str) -> str:
    """The name, in backticks unless R would read it without them."""
    if name == "..." or (_SYNTACTIC.match(name) and name not in _RESERVED):
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def r_number(value: float) -> str:
    """A number as R prints it: up to 15 significant digits, the shorter of fixed and scientific notation."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    digits = next((k for k in range(1, 15) if float(f"{value:.{k - 1}e}") == float(f"{value:.14e}")), 15)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    scientific = f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    fixed = f"{value:.{max(digits - 1 - power, 0)}f}"
    return fixed if len(fixed) <= len(scientific) else scientific


def strip_parens(node: Node) -> Node:
    """The expression inside any number of parentheses."""
    while isinstance(node, Paren):
        node = node.inner
    return node


def names_in(node: Node) -> list[str]:
    """Every column name of an expression, in order of appearance, once each."""
    found: dict[str, None] = {}

    def walk(part: Node) -> None:
        if isinstance(part, Name):
            found.setdefault(part.id)
        elif isinstance(part, Paren):
            walk(part.inner)
        elif isinstance(part, Unary):
            walk(part.operand)
        elif isinstance(part, Binary):
            walk(part.left)
            walk(part.right)
        elif isinstance(part, Call):
            for argument in part.arguments:
                walk(argument.value)

    walk(node)
    return list(found)
