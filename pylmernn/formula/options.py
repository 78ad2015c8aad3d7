"""Arguments of a call matched to names, as R matches them."""

from __future__ import annotations

from typing import Any

from pylmernn.formula.design import DesignError
from pylmernn.formula.nodes import Call, Constant, Node, Number, Paren, String, Unary, deparse


def bind(call: Call, *names: str) -> dict[str, Node]:
    """The arguments by name: exact names and unique beginnings first, the others in order.

    Raises
    ------
    DesignError
        For an unknown option, too many arguments, or when the first one is missing.
    """
    bound: dict[str, Node] = {}
    positional: list[Node] = []
    for argument in call.arguments:
        if argument.name is None:
            positional.append(argument.value)
            continue
        fits = [n for n in names if n == argument.name] or [n for n in names if n.startswith(argument.name)]
        if len(fits) != 1 or fits[0] in bound:
            raise DesignError(f"unknown option '{argument.name}' in '{deparse(call)}': it takes {', '.join(names)}.")
        bound[fits[0]] = argument.value
    free = [n for n in names if n not in bound]
    if len(positional) > len(free):
        raise DesignError(f"'{deparse(call)}' has too many arguments: it takes {', '.join(names)}.")
    bound.update(zip(free, positional, strict=False))
    if names[0] not in bound:
        raise DesignError(f"'{deparse(call)}' needs its first argument, {names[0]}.")
    return bound


def number(env: Any, node: Node, call: Call) -> float:
    """An option that must be one number."""
    value = env.evaluate(node)
    if not isinstance(value, (int, float)):
        raise DesignError(f"'{deparse(node)}' in '{deparse(call)}' must be a number.")
    return float(value)


def flag(env: Any, node: Node | None, call: Call) -> bool:
    """An option that is TRUE or FALSE; False where it is not given."""
    return node is not None and number(env, node, call) != 0


def literal(node: Node, label: str) -> Any:
    """An option as a Python value: a number, a text, TRUE or FALSE, or ``c(...)`` of those."""
    if isinstance(node, Number):
        return int(node.value) if float(node.value).is_integer() else node.value
    if isinstance(node, String):
        return node.value
    if isinstance(node, Constant) and node.id in ("TRUE", "FALSE"):
        return node.id == "TRUE"
    if isinstance(node, Constant) and node.id == "NULL":
        return ()
    if isinstance(node, Paren):
        return literal(node.inner, label)
    if isinstance(node, Unary) and node.operator == "-":
        return -literal(node.operand, label)
    if isinstance(node, Call) and node.function == "c":
        return tuple(literal(a.value, label) for a in node.arguments)
    raise DesignError(f"{label}: the option '{deparse(node)}' must be a plain number, text, TRUE, FALSE or c(...).")
