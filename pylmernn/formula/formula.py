"""A parsed formula: response, fixed part, and random terms expanded as lme4 expands them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from pylmernn.formula.design import DesignError
from pylmernn.formula.nodes import (
    Argument,
    Binary,
    Call,
    Constant,
    Name,
    Node,
    Number,
    Paren,
    Unary,
    deparse,
    strip_parens,
)
from pylmernn.formula.parser import parse_expression
from pylmernn.formula.terms import Terms, expand, members

#: names that are covariance structures where they wrap a bar
STRUCTURES = frozenset([
    "us", "diag", "cs", "homcs", "ar1", "hetar1", "arma", "toep",
    "ou", "exp", "gau", "mat", "propto", "kron", "embed", "rr",
])  # fmt: skip
#: those that this version fits
FITTED_STRUCTURES = frozenset(
    [
        "us",
        "diag",
        "embed",
        "rr",
    ]
)
#: calls that are terms of their own, neither fixed effects nor bars
SPECIAL_TERMS = frozenset(["nn", "gp", "embed"])
_BARS = ("|", "||")


@dataclass(frozen=True)
class Bar:
    """One random term as text: ``structure(lhs | group, options)``.

    Attributes
    ----------
    lhs, group : Node
        What varies, and by which factor.
    structure : str
        ``"us"`` for a plain bar.
    options : tuple of Argument
        Further arguments of the structure, ``hom = TRUE``.
    double : bool
        Written with ``||`` (never so among ``Formula.random``).
    """

    lhs: Node
    group: Node
    structure: str = "us"
    options: tuple[Argument, ...] = ()
    double: bool = False

    @cached_property
    def label(self) -> str:
        """The term as text, ``"(Days | Subject)"``."""
        inside = f"{deparse(self.lhs)} {'||' if self.double else '|'} {deparse(self.group)}"
        if self.structure == "us" and not self.options:
            return f"({inside})"
        options = "".join(f", {a.name} = {deparse(a.value)}" for a in self.options)
        return f"{self.structure}({inside}{options})"

    @cached_property
    def group_label(self) -> str:
        """Name of the grouping factor as lme4 has it, ``"b:a"``."""
        return deparse(self.group)

    @cached_property
    def terms(self) -> Terms:
        """The terms left of the bar."""
        return expand(self.lhs)


@dataclass(frozen=True)
class Formula:
    """A formula taken apart; ``str()`` gives it back in R's spacing.

    Attributes
    ----------
    tree : Node
        The whole formula.
    response_node : Node
    fixed : Node
        The right-hand side without bars and special terms.
    bars : tuple of Bar
        Random terms as written.
    random : tuple of Bar
        The same after expansion of ``||``, ``a/b`` and ``a*b``, as lme4 does it.
    specials : tuple of Call
        ``nn(...)``, ``gp(...)`` and ``embed(...)``.
    varying : tuple of Bar
        Bars with a network left of them, one for each factor; see :mod:`pylmernn.formula.varying`.
    """

    tree: Node
    response_node: Node
    fixed: Node
    bars: tuple[Bar, ...] = ()
    random: tuple[Bar, ...] = ()
    specials: tuple[Call, ...] = field(default=())
    varying: tuple[Bar, ...] = ()

    @property
    def response(self) -> str:
        """The response as text."""
        return deparse(self.response_node)

    @cached_property
    def fixed_terms(self) -> Terms:
        """The terms of the fixed part; DesignError where it holds a ``.``, which needs the data."""
        return expand(self.fixed)

    @property
    def has_dot(self) -> bool:
        """Whether the fixed part holds a ``.``."""
        return _has_dot(self.fixed)

    @cached_property
    def subbars(self) -> Node:
        """The right-hand side with every bar a plus, as lme4's ``subbars``; it has the model frame's variables."""
        return _plus_for_bars(self.tree.right) if isinstance(self.tree, Binary) else self.fixed

    def nobars(self) -> str:
        """The formula of the fixed effects alone, as lme4's ``nobars``."""
        return f"{self.response} ~ {deparse(self.fixed)}"

    def __str__(self) -> str:
        return deparse(self.tree)


@lru_cache(maxsize=256)
def parse(text: str) -> Formula:
    """Take a formula apart.

    Parameters
    ----------
    text : str
        lme4's grammar, ``"y ~ x + (x | g)"``. Fixed effects take R's ``+ : * ^ %in% / -``, ``0``, ``1``, ``.`` and
        calls such as ``log(x)`` or ``poly(x, 2)``; random terms are ``(x | g)``, ``(x || g)``, ``(1 | a/b)``,
        ``(1 | a:b)``, ``(1 | a*b)``, ``us(x | g)``, ``diag(x | g)`` and ``embed(1 | g, dim=100)``; ``gp(lon, lat)`` and
        ``embed(lon, lat)`` are terms over coordinates. ``**`` is read as ``^``, ``[1, 2]`` as
        ``c(1, 2)``, ``True`` as ``TRUE``; a column whose name is no name of R stands in backticks.

    Returns
    -------
    Formula

    Raises
    ------
    DesignError
        For text that is no formula of a mixed model; the message names the place.

    Examples
    --------
    >>> formula = parse("y ~ x + (1 + log(x) | g)")
    >>> formula.nobars()
    'y ~ x'
    >>> [bar.label for bar in formula.random]
    ['(1 + log(x) | g)']
    """
    tree = parse_expression(text)
    if not (isinstance(tree, Binary) and tree.operator == "~"):
        raise DesignError(f"'{text}' has no response: write response ~ predictors + (1 | group).")
    if isinstance(tree.left, Binary) and tree.left.operator == "~":
        raise DesignError(f"a formula has one '~', not two as '{text}'.")
    bars: list[Bar] = []
    specials: list[Call] = []
    fixed = _split(tree.right, bars, specials)
    return Formula(
        tree=tree,
        response_node=tree.left,
        fixed=fixed if fixed is not None else Number(1),
        bars=tuple(bars),
        random=tuple(single for bar in bars for single in expand_bar(bar)),
        specials=tuple(specials),
    )


def _split(node: Node, bars: list[Bar], specials: list[Call]) -> Node | None:
    """The fixed part of a sum; bars and special terms go into the lists."""
    bar = _as_bar(node)
    if bar is not None:
        bars.append(bar)
        return None
    if isinstance(node, Call) and node.function in SPECIAL_TERMS:
        specials.append(node)
        return None
    if isinstance(node, Paren):
        inner = _split(node.inner, bars, specials)
        return inner if inner is None else Paren(inner)
    if isinstance(node, Unary) and node.operator == "+":
        return _split(node.operand, bars, specials)
    if isinstance(node, Binary) and node.operator in "+-":
        left = _split(node.left, bars, specials)
        if node.operator == "-":
            _refuse_bars(node.right, "subtracted")
            return Unary("-", node.right) if left is None else Binary("-", left, node.right)
        right = _split(node.right, bars, specials)
        if left is None or right is None:
            return left if right is None else right
        return Binary("+", left, right)
    if isinstance(node, Binary) and node.operator in _BARS:
        raise DesignError(f"put the bar into parentheses: ({deparse(node)}).")
    _refuse_bars(node, "combined with other terms except by '+'")
    return node


def _plus_for_bars(node: Node) -> Node:
    bar = _as_bar(node)
    if bar is not None:
        return Paren(Binary("+", Paren(bar.lhs), Paren(bar.group)))
    if isinstance(node, Paren):
        return Paren(_plus_for_bars(node.inner))
    if isinstance(node, Binary) and node.operator in "+-":
        return Binary(node.operator, _plus_for_bars(node.left), _plus_for_bars(node.right))
    return node


def _refuse_bars(node: Node, what: str) -> None:
    bar = _as_bar(node)
    if bar is not None:
        raise DesignError(f"the random term {bar.label} cannot be {what}.")
    if isinstance(node, Paren):
        _refuse_bars(node.inner, what)
    elif isinstance(node, Unary):
        _refuse_bars(node.operand, what)
    elif isinstance(node, Binary):
        _refuse_bars(node.left, what)
        _refuse_bars(node.right, what)


def _as_bar(node: Node) -> Bar | None:
    """The bar a node is, or None: ``(x | g)`` or ``us(x | g, ...)``."""
    if isinstance(node, Paren):
        inner = strip_parens(node)
        if isinstance(inner, Binary) and inner.operator in _BARS:
            return _checked(Bar(inner.left, inner.right, double=inner.operator == "||"))
        return None
    if isinstance(node, Call) and node.function in STRUCTURES and node.arguments:
        inner = strip_parens(node.arguments[0].value)
        if isinstance(inner, Binary) and inner.operator in _BARS:
            return _structured(node, inner)
    return None


def _structured(call: Call, inner: Binary) -> Bar:
    bar = Bar(inner.left, inner.right, call.function, call.arguments[1:], double=inner.operator == "||")
    if call.function not in FITTED_STRUCTURES:
        raise DesignError(
            f"{deparse(call)}: this version does not fit {call.function}() terms yet, only us(), diag() and embed()."
        )
    if bar.double:
        raise DesignError(f"{deparse(call)}: write a single bar inside {call.function}().")
    if call.function in ("embed", "rr"):
        return _checked(bar)
    for option in bar.options:
        if option.name == "hom" and option.value == Constant("FALSE"):
            continue
        if option.name == "hom" and call.function == "diag":
            raise DesignError(
                f"{deparse(call)}: this version does not fit hom = TRUE yet; leave it out for one variance a column."
            )
        raise DesignError(f"{deparse(call)}: unknown option '{option.name or deparse(option.value)}'.")
    return _checked(replace(bar, options=()))


def _checked(bar: Bar) -> Bar:
    if isinstance(strip_parens(bar.lhs), Binary) and strip_parens(bar.lhs).operator in _BARS:  # type: ignore[union-attr]
        raise DesignError(f"the random term {bar.label} has two bars.")
    if isinstance(bar.group, (Number, Constant)):
        raise DesignError(f"the bar in '{bar.label}' has no grouping factor: write (1 | group).")
    _refuse_bars(bar.lhs, "part of another random term")
    return bar


def expand_bar(bar: Bar) -> list[Bar]:
    """``||`` to one bar a term, then ``a/b`` and ``a*b`` to one bar a factor."""
    return [replace(single, group=group) for single in _expand_double(bar) for group in _expand_group(bar, bar.group)]


def _expand_double(bar: Bar) -> list[Bar]:
    if not bar.double:
        return [bar]
    terms = bar.terms
    parts: list[Node] = [Number(1)] if terms.intercept else []
    for term in terms.terms:
        variables = [terms.variables[i] for i in members(term)]
        product = variables[0]
        for variable in variables[1:]:
            product = Binary(":", product, variable)
        parts.append(Binary("+", Number(0), product))
    return [Bar(part, bar.group) for part in parts]


def _expand_group(bar: Bar, group: Node) -> list[Node]:
    inner = strip_parens(group)
    if isinstance(inner, Binary) and inner.operator == "/":
        left = _expand_group(bar, inner.left)
        right = _expand_group(bar, inner.right)
        # lme4's order: the innermost factor first, each crossed with the deepest one left of the slash
        return [Binary(":", r, left[0] if not _needs_parens(left[0]) else Paren(left[0])) for r in right] + left
    if isinstance(inner, Binary) and inner.operator in ("*", "+"):
        terms = expand(inner)
        products: list[Node] = []
        for term in terms.terms:
            variables = [terms.variables[i] for i in members(term)]
            product = variables[0]
            for variable in variables[1:]:
                product = Binary(":", product, variable)
            products.append(product)
        return products
    _check_group(bar, inner)
    return [inner]


def _needs_parens(node: Node) -> bool:
    return isinstance(node, Binary)


def _check_group(bar: Bar, node: Node) -> None:
    node = strip_parens(node)
    if isinstance(node, Binary) and node.operator == ":":
        _check_group(bar, node.left)
        _check_group(bar, node.right)
    elif not isinstance(node, (Name, Call)):
        raise DesignError(
            f"'{deparse(node)}' in {bar.label} is not a grouping factor: write a column, a:b, a/b or a*b."
        )


def _has_dot(node: Node) -> bool:
    if isinstance(node, Name):
        return node.id == "."
    if isinstance(node, Paren):
        return _has_dot(node.inner)
    if isinstance(node, Unary):
        return _has_dot(node.operand)
    return isinstance(node, Binary) and (_has_dot(node.left) or _has_dot(node.right))
