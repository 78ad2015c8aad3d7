"""``nn(...)`` in a formula: which columns a network takes, and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pylmernn.formula.design import DesignError, FloatArray, NetTerm
from pylmernn.formula.formula import Formula, parse
from pylmernn.formula.nodes import Argument, Call, Name, Node, deparse, names_in
from pylmernn.formula.options import literal
from pylmernn.formula.values import Factor, Value


@dataclass(frozen=True)
class NetCall:
    """One ``nn(...)`` taken apart.

    Attributes
    ----------
    label : str
    name : str
        ``"nn"``, or what ``net=`` says.
    inputs : dict of Node
        The expressions of its columns, by their text.
    options : dict
        The other arguments, as Python values.
    module : torch.nn.Module, callable that returns one, or None
        The user's own network.
    """

    label: str
    name: str
    inputs: dict[str, Node]
    options: dict[str, Any]
    module: Any = None


def read_networks(formula: Formula, nets: Mapping[str, Any] | None = None) -> tuple[NetCall, ...]:
    """The networks of a formula.

    Parameters
    ----------
    formula : Formula
    nets : mapping, optional
        By name, options (a mapping; those in the formula override them), a torch module, or a callable that returns
        one.

    Raises
    ------
    DesignError
        For a network without inputs, an option that is no plain value, or a name in ``nets`` that the formula lacks.
    """
    calls = [_read(call) for call in formula.specials if call.function == "nn"]
    given = dict(nets or {})
    unknown = sorted(set(given) - {call.name for call in calls})
    if unknown:
        raise DesignError(
            f"nets has '{unknown[0]}', but no network of the formula has that name: write nn(..., net = )."
        )
    out = []
    for call in calls:
        more = given.get(call.name, {})
        if call.name != "nn" and call.name not in given:
            raise DesignError(f"{call.label}: nets has no '{call.name}'.")
        if isinstance(more, Mapping):
            out.append(replace(call, options={**more, **call.options}))
        elif callable(more):  # torch is not imported here: modules are callable too
            out.append(replace(call, module=more))
        else:
            raise DesignError(
                f"nets['{call.name}'] is of type {type(more).__name__}: give options such as dict(hidden=(100, 50)), a "
                "torch module, or a function that returns one."
            )
    return tuple(out)


def expand_dots(formula: Formula, columns: Sequence[str], taken: Sequence[str | None]) -> Formula:
    """The formula with ``nn(.)`` written out: every column that is not used elsewhere."""
    dotted = [call for call in formula.specials if any(a.value == Name(".") for a in call.arguments)]
    if not dotted:
        return formula
    used = set(names_in(formula.tree)) | {name for name in taken if name is not None}
    free = tuple(Argument(Name(str(c))) for c in columns if str(c) not in used)
    if not free:
        raise DesignError(f"{deparse(dotted[0])}: no column is left for '.'; all are used elsewhere.")
    text = str(formula)
    for call in dotted:
        arguments = [a for old in call.arguments for a in (free if old.value == Name(".") else (old,))]
        text = text.replace(deparse(call), deparse(Call(call.function, tuple(arguments))), 1)
    return parse(text)


def net_term(call: NetCall, values: Mapping[str, Value]) -> NetTerm:
    """The inputs of a network as one array.

    A matrix such as ``poly(x, 2)`` gives several numbers; a column of arrays gives its elements in row-major order, and
    one entry of ``shapes``.
    """
    columns: list[FloatArray] = []
    names: list[str] = []
    levels: list[int] = []
    shapes: list[tuple[int, ...]] = []
    for name in call.inputs:
        value = values[name]
        if isinstance(value, Factor):
            columns.append(value.codes.astype(np.float64)[:, None])
            names.append(name)
            levels.append(len(value.levels))
            shapes.append(())
            continue
        matrix = value.values.reshape(len(value), -1)
        columns.append(matrix)
        suffixes = value.names or tuple(str(j + 1) for j in range(matrix.shape[1]))
        names += [name] if matrix.shape[1] == 1 else [name + suffix for suffix in suffixes]
        levels += [0] * matrix.shape[1]
        shapes += [value.values.shape[1:]] if value.array else [()] * matrix.shape[1]
    return NetTerm(
        label=call.label,
        name=call.name,
        inputs=np.hstack(columns),
        input_names=tuple(names),
        levels=tuple(levels),
        options=call.options,
        shapes=tuple(shapes) if any(shapes) else (),
        module=call.module,
    )


def check_inputs(calls: Sequence[NetCall], formula: Formula) -> None:
    """Raise DesignError where a network takes the response or a factor that random effects stand for already."""
    groups = {deparse(bar.group) for bar in (*formula.random, *formula.varying)}
    for call in calls:
        if formula.response in call.inputs:
            raise DesignError(f"{call.label}: the response '{formula.response}' cannot be an input.")
        for name in call.inputs:
            if name in groups:
                raise DesignError(
                    f"{call.label}: '{name}' is the grouping factor of a random term too; take it out of one of them."
                )


def _read(call: Call) -> NetCall:
    label = deparse(call)
    inputs = {deparse(a.value): a.value for a in call.arguments if a.name is None}
    options = {a.name: literal(a.value, label) for a in call.arguments if a.name is not None}
    name = options.pop("net", "nn")
    if not inputs:
        raise DesignError(f"{label}: name the columns that the network takes, nn(x1, x2), or nn(.) for all others.")
    return NetCall(label, str(name), inputs, {str(k): v for k, v in options.items()})
