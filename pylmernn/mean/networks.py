"""The fitted networks of a model, as data: weights as arrays, everything else JSON-able."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.formula.design import DesignError, NetTerm
from pylmernn.mean.embedding import Embedding
from pylmernn.mean.inputs import Block, block_moments, blocks_of, moments

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]
Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class NetSpec:
    """All that is needed to build one network again, but its weights.

    Attributes
    ----------
    label, name : str
    input_names : tuple of str, length k
    levels : tuple of int, length k
        Levels of each factor among the inputs, 0 for a number.
    options : dict
    centre, scale : tuple of float, length k
    shapes : tuple of tuple of int
        As in :class:`~pylmernn.formula.design.NetTerm`.
    n_parameters : int
        Weights that are learned.
    class_name : str
        Of the user's own module; empty for a network made from ``options``.
    module : torch.nn.Module, callable that returns one, or None
        The user's own module. It is code, so a saved fit does not hold it.
    outputs : int
        Numbers a row that the network returns: one, or one a class.
    """

    label: str
    name: str
    input_names: tuple[str, ...]
    levels: tuple[int, ...]
    options: dict[str, Any]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    n_parameters: int = 0
    class_name: str = ""
    module: Any = field(default=None, repr=False, compare=False)
    outputs: int = 1

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The inputs of the formula among the columns."""
        return blocks_of(self.input_names, self.levels, self.shapes)

    @property
    def lacks_module(self) -> bool:
        """Whether it was a module of the user's that was not put back after loading."""
        return bool(self.class_name) and self.module is None


@dataclass(frozen=True)
class Networks:
    """Fitted networks: the mean of some members, each the sum of the networks of the formula.

    Attributes
    ----------
    specs : tuple of NetSpec, one a network
    members : tuple of tuple of dict
        ``members[i][k]`` holds the weights of network k in member i; several members where networks were cross-fitted.
    scale : float
    shift : float or tuple of float
        ``f = scale * output - shift``; one a class where networks return several numbers.
    fitted : ndarray, shape (n,) or (n, outputs)
        f at the rows of the fit: out of fold where there are several members.
    history : dict of list
        epoch, loss, validation, validation_levels, sigma, seconds; one entry an epoch and member.
    best_epoch : tuple of int, one a member
    out_of_fold : bool
    learned : ndarray of bool, shape (members, n), or None
        Which rows each member has learnt from; at the others its values are out of sample. None where unknown.
    embeddings : tuple of Embedding or None
        Of each random term ``embed(lon, lat)``, its learned function of the coordinates; None for the other terms.
        Empty where no term has one.
    criterion : str
        What loss and validation in the history are.
    """

    specs: tuple[NetSpec, ...]
    members: tuple[tuple[Weights, ...], ...]
    scale: float
    shift: float | tuple[float, ...]
    fitted: FloatArray
    history: dict[str, list[float]]
    best_epoch: tuple[int, ...]
    out_of_fold: bool
    learned: NDArray[np.bool_] | None = None
    embeddings: tuple[Embedding | None, ...] = ()
    criterion: str = "mean squared error"

    @property
    def n_parameters(self) -> list[int]:
        """Weights of each network that are learned."""
        return [spec.n_parameters for spec in self.specs]

    def values(self, inputs: Sequence[FloatArray]) -> FloatArray:
        """F of new rows, (m,) or (m, outputs), from raw inputs (m, k) of each network; NaN where an input is missing.

        DesignError where a module of the user's was not put back after loading.
        """
        from pylmernn.training.loop import evaluate

        missing = np.zeros(len(inputs[0]), dtype=bool)
        for columns in inputs:
            missing |= np.isnan(columns).any(axis=1)
        values = []
        for member in self.members:
            modules = [build(spec, weights) for spec, weights in zip(self.specs, member, strict=True)]
            features = [m.prepare(np.nan_to_num(columns)) for m, columns in zip(modules, inputs, strict=True)]
            values.append(evaluate(modules, features, self.specs[0].outputs))
        out = self.scale * np.sum(values, axis=0) / len(values) - np.asarray(self.shift)
        out[missing] = np.nan
        return np.asarray(out)


def specify(term: NetTerm, options: dict[str, Any] | None = None, outputs: int = 1) -> NetSpec:
    """The specification of a network for its training inputs.

    Parameters
    ----------
    term : NetTerm
    options : dict, optional
        Checked options of a network made from options, where they are not those of the term.
    outputs : int, default 1
        Numbers a row that the network is to return.

    Raises
    ------
    ValueError, DesignError
        For an option that does not exist; for a module that fails on its inputs, returns anything but ``outputs``
        numbers a row, or has nothing to learn.
    """
    from pylmernn.mean.mlp import check_options
    from pylmernn.mean.modules import count_parameters, fresh, try_out

    own = term.module is not None
    if own:
        options = _module_options(term)
    elif options is None:
        options = check_options(term.options, term.label)
    if not options.get("standardize", True):
        centre, scale = np.zeros(len(term.levels)), np.ones(len(term.levels))
    elif own:
        centre, scale = block_moments(term.inputs, blocks_of(term.input_names, term.levels, term.shapes))
    else:
        centre, scale = moments(term.inputs)
    spec = NetSpec(
        label=term.label,
        name=term.name,
        input_names=term.input_names,
        levels=term.levels,
        options=options,
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        shapes=term.shapes,
        class_name=type(fresh(term.module, term.name)).__name__ if own else "",
        module=term.module,
        outputs=outputs,
    )
    network = build(spec)
    if own:
        try_out(network, term.inputs)
    return replace(spec, n_parameters=count_parameters(network))


def _module_options(term: NetTerm) -> dict[str, Any]:
    unknown = sorted(set(term.options) - {"standardize"})
    if unknown:
        raise DesignError(
            f"{term.label}: '{unknown[0]}' is an option of networks that nn() makes; with a module of your own it "
            "takes standardize only."
        )
    return {"standardize": bool(term.options.get("standardize", True))}


def build(spec: NetSpec, weights: Weights | None = None) -> Any:
    """A torch module for a specification, with fresh or given weights.

    It has ``prepare(inputs)``, which turns raw inputs (m, k) into the tensor that ``forward`` takes.

    Raises
    ------
    DesignError
        Where it is the user's own module, which was not put back after loading.
    """
    import torch

    from pylmernn.mean.mlp import TabularNet
    from pylmernn.mean.modules import ModuleNet, fresh, with_lazy_layers

    centre, scale = np.array(spec.centre), np.array(spec.scale)
    network: TabularNet | ModuleNet
    if not spec.class_name:
        network = TabularNet(spec.levels, spec.options, centre, scale, spec.outputs)
    elif spec.module is None:
        raise DesignError(
            f"the network '{spec.name}' is a module of your own ({spec.class_name}), which a saved fit does not hold: "
            f"read the fit by pylmernn.load(path, nets={{'{spec.name}': module}})."
        )
    else:
        network = ModuleNet(fresh(spec.module, spec.name), spec.name, spec.blocks, centre, scale, spec.outputs)
        network = with_lazy_layers(network, len(centre))
    if weights is not None:
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return network


def with_modules(networks: Networks, nets: Mapping[str, Any] | None) -> Networks:
    """Networks of a saved fit with the user's modules put back.

    Parameters
    ----------
    networks : Networks
    nets : mapping, optional
        By name, a module or a callable that returns one, as it was in the fit. Those left out stay away: everything
        works then but values at new rows.

    Raises
    ------
    DesignError
        For a name that no network has, or a module that the saved weights do not fit.
    """
    given = dict(nets or {})
    names = {spec.name for spec in networks.specs if spec.class_name}
    unknown = sorted(set(given) - names)
    if unknown:
        has = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise DesignError(f"nets has '{unknown[0]}', but the saved fit has no module of that name: {has}.")
    specs = tuple(replace(s, module=given[s.name]) if s.name in given else s for s in networks.specs)
    for spec, weights in zip(specs, networks.members[0], strict=True):
        if spec.name not in given:
            continue
        try:
            build(spec, weights)
        except RuntimeError as error:  # torch's list of missing and unexpected weights
            raise DesignError(
                f"nets['{spec.name}'] does not fit the saved weights of the network, a {spec.class_name} with "
                f"{spec.n_parameters} parameters."
            ) from error
    return replace(networks, specs=specs)


def size_messages(networks: Networks) -> tuple[str, ...]:
    """A sentence for each network with more parameters than the fit has rows."""
    n = len(networks.fitted)
    return tuple(
        f"{spec.label} has {spec.n_parameters} parameters for {n} rows: take fewer hidden units, dropout or a larger "
        "weight_decay"
        for spec in networks.specs
        if spec.n_parameters > n
    )


def weights_of(module: torch.nn.Module) -> Weights:
    """A copy of the weights as arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}
