"""Bars with a network left of them: ``(nn | person)``, ``(nn.last | person)``, ``(nn["layers.0.weight"] | person)``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from pylmernn.formula.design import DesignError, IntArray
from pylmernn.formula.formula import Bar, Formula, expand_bar, parse
from pylmernn.formula.nodes import Call, Name, Node, String, deparse, names_in, strip_parens
from pylmernn.formula.options import literal
from pylmernn.formula.values import Factor

#: Names that mean a network wherever no column has them.
RESERVED = ("nn", "crf")


@dataclass(frozen=True)
class VaryingTerm:
    """One bar by which parameters of a network vary: theta_bar + eta_i in group i.

    Attributes
    ----------
    group : str
        Label of the grouping factor.
    codes : ndarray of int32, shape (n,)
        Level of each row, 0 to q - 1.
    levels : ndarray of str, shape (q,)
    net : str
        Name of the network.
    selector : str
        ``""`` for all its parameters, ``"last"`` or ``"first"`` for those of a layer, else the name of one parameter.
    covariance : str
        ``"us"`` for a plain bar, ``"diag"`` for variances only, ``"rr"`` for deviations of reduced rank.
    label : str
        The term as the user wrote it.
    rank : int
        Of ``"rr"``; 0 where it is left to the method.
    """

    group: str
    codes: IntArray
    levels: NDArray[Any]
    net: str
    selector: str
    covariance: str = "us"
    label: str = ""
    rank: int = 0

    @property
    def n_levels(self) -> int:
        """Number of levels, q."""
        return len(self.levels)


def split_bars(formula: Formula, nets: Sequence[str], columns: Collection[str], sequences: bool = False) -> Formula:
    """The formula with the bars of networks in ``varying``, one for each factor, and the other bars in ``random``.

    Parameters
    ----------
    formula : Formula
    nets : names of its networks
    columns : names of the columns of the data
        A column called ``nn`` comes first.
    sequences : bool, default False
        Whether ``crf`` means the transitions between states.

    Raises
    ------
    DesignError
        For a bar that mixes parameters with columns, or names a network that the formula has not.
    """
    varying = []
    for bar in formula.bars:
        names = [n for n in names_in(bar.lhs) if n not in columns and _net_of(n, (*nets, *RESERVED))]
        if not names and bar.structure == "rr":
            raise DesignError(f"{bar.label}: this version fits rr() of the parameters of a network only.")
        if not names:
            continue
        if _target(bar.lhs) is None:
            raise DesignError(
                f"{bar.label}: parameters of a network stand alone left of a bar: write ({names[0]} | "
                f"{bar.group_label})."
            )
        name = _net_of(names[0], (*nets, *RESERVED))
        if name == "crf" and name not in nets and not sequences:
            raise DesignError(f"{bar.label}: transitions belong to sequences: use glmernn() with family='crf'.")
        if name not in (*nets, *(["crf"] if sequences else [])):
            raise DesignError(f"{bar.label}: the formula has no network '{name}': add a term such as nn(x1, x2).")
        varying.append(bar)
    if not varying:
        return formula
    ordinary = [bar for bar in formula.bars if bar not in varying]
    single = [part for bar in varying for part in _by_factor(bar)]
    if sequences:
        _refuse_several(ordinary, single, nets)
    random = tuple(part for bar in ordinary for part in expand_bar(bar))
    return replace(formula, random=random, varying=tuple(single))


def _by_factor(bar: Bar) -> list[Bar]:
    """A bar for each grouping factor, which ``a/b`` and ``a*b`` have several of; lme4's order."""
    factors = parse(f"y ~ (1 | {bar.group_label})").random
    return [bar] if len(factors) == 1 else [replace(bar, group=factor.group) for factor in factors]


def _refuse_several(ordinary: Sequence[Bar], varying: Sequence[Bar], nets: Sequence[str]) -> None:
    """Raise DesignError for sequences with other bars than one of the network and one of transitions, by one factor."""
    if ordinary:
        raise DesignError(
            f"{ordinary[0].label}: this version does not fit columns that vary by group beside {varying[0].label}: "
            "take one of them out."
        )
    if len({_is_crf(bar, nets) for bar in varying}) < len(varying) or len({bar.group_label for bar in varying}) > 1:
        raise DesignError(f"{varying[-1].label}: this version lets sequences vary by one factor only.")


def _is_crf(bar: Bar, nets: Sequence[str]) -> bool:
    """Whether a bar is one of transitions."""
    return "crf" not in nets and "crf" in names_in(bar.lhs)


def varying_term(bar: Bar, nets: Sequence[str], groups: Mapping[str, Factor]) -> VaryingTerm:
    """The term of a bar of :func:`split_bars`, with its factor."""
    node = _target(bar.lhs)
    assert node is not None
    if isinstance(node, Name):
        name = _net_of(node.id, nets)
        selector = node.id[len(name) + 1 :]
    else:
        assert isinstance(node.arguments[0].value, Name)
        name = node.arguments[0].value.id
        selector = _text(node, bar.label)
    group = groups[bar.group_label]
    if len(group.levels) < 2:
        raise DesignError(
            f"the grouping factor '{bar.group_label}' of {bar.label} has {len(group.levels)} level: it needs at least "
            "2."
        )
    if bar.structure not in ("us", "diag", "rr"):
        raise DesignError(f"{bar.label}: parameters of a network take us(), diag() or rr(), not {bar.structure}().")
    covariance = "diag" if bar.double else bar.structure
    return VaryingTerm(bar.group_label, group.codes, group.levels, name, selector, covariance, bar.label, _rank(bar))


def _rank(bar: Bar) -> int:
    """What ``rr(nn | g, d = 4)`` asks for, 0 for nothing."""
    given = {a.name: literal(a.value, bar.label) for a in bar.options}
    rank = given.pop("d", 0)
    if given or not isinstance(rank, int) or isinstance(rank, bool) or rank < (1 if bar.options else 0):
        raise DesignError(
            f"{bar.label}: rr() takes a rank, a whole number: write rr({deparse(bar.lhs)} | group, d = 4)."
        )
    return rank


def _target(node: Node) -> Name | Call | None:
    """What varies: ``nn``, ``nn.last`` or ``nn["name"]``; None for anything else."""
    node = strip_parens(node)
    if isinstance(node, Name):
        return node
    if isinstance(node, Call) and node.function == "[" and isinstance(node.arguments[0].value, Name):
        return node
    return None


def _net_of(name: str, nets: Sequence[str]) -> str:
    """The network that a name is, or begins with; empty where there is none."""
    return max((net for net in nets if name == net or name.startswith(f"{net}.")), key=len, default="")


def _text(node: Call, label: str) -> str:
    """The name of a parameter in brackets."""
    inside = [a.value for a in node.arguments[1:]]
    if len(inside) != 1 or not isinstance(inside[0], String):
        net = deparse(node.arguments[0].value)
        raise DesignError(f'{label}: name one parameter in quotes, such as {net}["layers.0.weight"].')
    return inside[0].value
