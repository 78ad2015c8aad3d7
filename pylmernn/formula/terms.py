"""R's algebra of model terms: ``+ : * ^ %in% / -``, ``0``, ``1`` and ``.`` become an ordered list of terms.

A term is a set of variables, held as the bits of an integer as in R: bit i is the i-th variable in order of appearance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pylmernn.formula.design import DesignError
from pylmernn.formula.nodes import Binary, Call, Constant, Name, Node, Number, Paren, String, Unary, deparse


@dataclass(frozen=True)
class Terms:
    """The expanded right-hand side of a formula.

    Attributes
    ----------
    variables : tuple of Node
        The distinct variables in order of appearance, offsets included.
    names : tuple of str
        The same as text, R's names of the columns of the model frame.
    terms : tuple of int
        One bit set a term, by degree, then by order of appearance.
    intercept : bool
    offsets : tuple of int
        Positions of ``offset(...)`` among the variables.
    """

    variables: tuple[Node, ...]
    names: tuple[str, ...]
    terms: tuple[int, ...]
    intercept: bool
    offsets: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """R's term labels, ``"a:b"``."""
        return tuple(":".join(self.names[i] for i in members(term)) for term in self.terms)

    def coding(self, factors: Sequence[bool]) -> list[list[tuple[int, bool]]]:
        """For each term its variables, and whether a factor among them gets all its levels instead of contrasts.

        R's rule: contrasts where the term without that factor is part of a term before it. Without an intercept the
        first factor met gets all its levels.

        Parameters
        ----------
        factors : one bool a variable
            Whether the variable is a factor (or logical).
        """
        coded = [
            [(i, not self._margin_present(k, term ^ (1 << i))) for i in members(term)]
            for k, term in enumerate(self.terms)
        ]
        if not self.intercept:
            for pairs in coded:
                for place, (i, _) in enumerate(pairs):
                    if factors[i]:
                        pairs[place] = (i, True)
                        return coded
        return coded

    def _margin_present(self, k: int, margin: int) -> bool:
        return margin == 0 or any(margin & ~earlier == 0 for earlier in self.terms[:k])


def members(term: int) -> list[int]:
    """Positions of the variables of a term."""
    return [i for i in range(term.bit_length()) if term >> i & 1]


def expand(node: Node, columns: Sequence[str] | None = None) -> Terms:
    """The terms of the right-hand side of a formula without bars.

    Parameters
    ----------
    node : Node
    columns : sequence of str, optional
        What ``.`` stands for.

    Raises
    ------
    DesignError
        For something that is no term, such as the number 2.
    """
    algebra = _Algebra(columns)
    algebra.collect(node)
    found = algebra.encode(node, True)
    offsets = tuple(i for i, v in enumerate(algebra.variables) if isinstance(v, Call) and v.function == "offset")
    offset_bits = sum(1 << i for i in offsets)
    kept = sorted((t for t in found if t & offset_bits == 0), key=int.bit_count)
    return Terms(tuple(algebra.variables), tuple(algebra.position), tuple(kept), algebra.intercept, offsets)


def variables_of(node: Node, columns: Sequence[str] | None = None) -> dict[str, Node]:
    """The variables of a right-hand side in order of appearance, by name."""
    algebra = _Algebra(columns)
    algebra.collect(node)
    return dict(zip(algebra.position, algebra.variables, strict=True))


class _Algebra:
    """The variables met so far and whether the intercept is still in."""

    def __init__(self, columns: Sequence[str] | None) -> None:
        self.columns = columns
        self.variables: list[Node] = []
        self.position: dict[str, int] = {}
        self.intercept = True

    def collect(self, node: Node) -> None:
        """Number the variables in order of appearance, those of removed terms included (as R does)."""
        if isinstance(node, Paren):
            self.collect(node.inner)
        elif isinstance(node, Unary) and node.operator in "+-":
            self.collect(node.operand)
        elif isinstance(node, Binary) and node.operator in _RULES:
            self.collect(node.left)
            if node.operator != "^":
                self.collect(node.right)
        elif isinstance(node, Name) and node.id == ".":
            for name in self.dot():
                self.install(Name(name))
        elif isinstance(node, (String, Constant)):
            raise DesignError(f"{deparse(node)} is not a term of a formula: write the name of a column.")
        elif not isinstance(node, Number):
            self.install(node)

    def install(self, node: Node) -> int:
        name = deparse(node)
        if name not in self.position:
            self.position[name] = len(self.variables)
            self.variables.append(node)
        return 1 << self.position[name]

    def dot(self) -> Sequence[str]:
        if self.columns is None:
            raise DesignError("'.' can stand only among the fixed effects: name the columns instead.")
        return self.columns

    def encode(self, node: Node, adding: bool) -> list[int]:
        """The terms of a node; ``adding`` is false right of a minus, where 1 and 0 change places."""
        if isinstance(node, Paren):
            return self.encode(node.inner, adding)
        if isinstance(node, Number):
            if node.value not in (0, 1):
                raise DesignError(f"the number {deparse(node)} is not a term of a formula: only 0 and 1 are.")
            self.intercept = (node.value == 1) == adding
            return []
        if isinstance(node, Unary) and node.operator in "+-":
            terms = self.encode(node.operand, adding == (node.operator == "+"))
            return terms if node.operator == "+" else []
        if isinstance(node, Binary) and node.operator in _RULES:
            left = self.encode(node.left, adding)
            if node.operator == "^":
                return _power(left, node.right)
            right = self.encode(node.right, adding == (node.operator != "-"))
            return _RULES[node.operator](left, right)
        if isinstance(node, Name) and node.id == ".":
            return [self.install(Name(name)) for name in self.dot()]
        return [self.install(node)]


def _unique(terms: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(terms))


def _plus(left: list[int], right: list[int]) -> list[int]:
    return _unique(left + right)


def _minus(left: list[int], right: list[int]) -> list[int]:
    return [term for term in left if term not in right]


def _interaction(left: list[int], right: list[int]) -> list[int]:
    return _unique([a | b for a in left for b in right])


def _cross(left: list[int], right: list[int]) -> list[int]:
    return _unique(left + right + _interaction(left, right))


def _all(terms: list[int]) -> int:
    bits = 0
    for term in terms:
        bits |= term
    return bits


def _inside(left: list[int], right: list[int]) -> list[int]:
    return _unique([a | _all(right) for a in left])


def _nest(left: list[int], right: list[int]) -> list[int]:
    return _unique(left + [b | _all(left) for b in right])


def _power(left: list[int], exponent: Node) -> list[int]:
    if not isinstance(exponent, Number) or exponent.value < 1 or exponent.value != int(exponent.value):
        raise DesignError(f"the power in '^{deparse(exponent)}' must be a whole number; write I(x^2) for arithmetic.")
    terms = left
    for _ in range(int(exponent.value) - 1):
        terms = _interaction(terms, left)
    return terms


_RULES = {
    "+": _plus, "-": _minus, ":": _interaction, "*": _cross, "/": _nest, "%in%": _inside, "^": lambda left, _: left,
}  # fmt: skip
