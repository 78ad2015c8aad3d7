"""A formula changed by another, ``". ~ . + x"``."""

from __future__ import annotations

from pylmernn.formula.design import DesignError
from pylmernn.formula.formula import parse
from pylmernn.formula.nodes import Argument, Binary, Call, Name, Node, Number, Paren, Unary, deparse, strip_parens
from pylmernn.formula.parser import parse_expression
from pylmernn.formula.terms import expand, members


def update_formula(old: str, new: str) -> str:
    """The new formula, with "." replaced by the same side of the old one and simplified as R does.

    Parameters
    ----------
    old : str
        A full formula.
    new : str
        A formula in which "." may stand on either side; without "~" it is taken as a right-hand side.

    Returns
    -------
    str

    Examples
    --------
    >>> update_formula("y ~ a * b + (1 | g)", ". ~ . - a:b + (1 | h)")
    'y ~ a + b + (1 | g) + (1 | h)'
    """
    before = parse_expression(old)
    after = parse_expression(new if "~" in new else f". ~ {new}")
    if isinstance(after, Unary) and after.operator == "~":
        after = Binary("~", Name("."), after.operand)
    if not (isinstance(before, Binary) and isinstance(after, Binary) and after.operator == "~"):
        raise DesignError(f"'{new}' is no formula: write '. ~ . + x'.")
    left = _substitute(after.left, before.left)
    signed = _signed(after.right, 1, before.right)
    bars: list[str] = []
    fixed: list[tuple[int, Node]] = []
    for sign, node in signed:
        if not _is_bar(node):
            fixed.append((sign, node))
            continue
        text = deparse(node)
        if sign > 0:
            bars += [] if text in bars else [text]
        elif text in bars:
            bars.remove(text)
        else:
            raise DesignError(f"the formula has no random term {text} to take out.")
    return f"{deparse(left)} ~ {_right_side(fixed, bars)}"


def _signed(node: Node, sign: int, dot: Node) -> list[tuple[int, Node]]:
    """The summands of a right-hand side, with their signs; "." becomes the summands of the old one."""
    if node == Name("."):
        return [(sign * s, part) for s, part in _signed(dot, 1, Name("."))] if dot != Name(".") else [(sign, node)]
    if isinstance(node, Binary) and node.operator in ("+", "-"):
        second = sign if node.operator == "+" else -sign
        return _signed(node.left, sign, dot) + _signed(node.right, second, dot)
    if isinstance(node, Unary) and node.operator in ("+", "-"):
        return _signed(node.operand, sign if node.operator == "+" else -sign, dot)
    if isinstance(node, Paren) and not _is_bar(node) and _is_sum(node):
        return _signed(strip_parens(node), sign, dot)
    return [(sign, node)]


def _substitute(node: Node, value: Node) -> Node:
    """The expression with "." replaced by another."""
    if node == Name("."):
        return value
    if isinstance(node, Paren):
        return Paren(_substitute(node.inner, value))
    if isinstance(node, Unary):
        return Unary(node.operator, _substitute(node.operand, value))
    if isinstance(node, Binary):
        return Binary(node.operator, _substitute(node.left, value), _substitute(node.right, value))
    if isinstance(node, Call):
        return Call(node.function, tuple(Argument(_substitute(a.value, value), a.name) for a in node.arguments))
    return node


def _is_sum(node: Node) -> bool:
    inner = strip_parens(node)
    return isinstance(inner, Binary) and inner.operator in ("+", "-")


def _is_bar(node: Node) -> bool:
    """Whether a summand is a random term, by what the parser of formulas makes of it alone."""
    if isinstance(node, (Name, Number)):
        return False
    try:
        return bool(parse(f"y ~ {deparse(node)}").bars)
    except DesignError:
        return False


def _right_side(fixed: list[tuple[int, Node]], bars: list[str]) -> str:
    """Fixed terms expanded and written out one by one, then the bars."""
    tree: Node | None = None
    for sign, node in fixed:
        if tree is None:
            tree = node if sign > 0 else Unary("-", node)
        else:
            tree = Binary("+" if sign > 0 else "-", tree, node)
    labels: list[str] = []
    intercept = True
    if tree is not None:
        if any(node == Name(".") for _, node in fixed):
            labels, intercept = [deparse(tree)], True
        else:
            terms = expand(tree)
            intercept = terms.intercept
            labels = [":".join(terms.names[i] for i in members(t)) for t in terms.terms]
            labels += [terms.names[i] for i in terms.offsets]
    parts = labels + bars
    if not labels and not bars:
        return "1" if intercept else "0"
    text = " + ".join(parts)
    return text if intercept else f"{text} - 1"
