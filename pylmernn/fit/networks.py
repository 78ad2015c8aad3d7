"""What a fit says of its networks: the block in the summary, the history of training, a picture of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from pylmernn.fit.importance import Importance
from pylmernn.formula.design import Design
from pylmernn.mean.networks import NetSpec, Networks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inputs of a network that the summary names, the most important first.
SHOWN_INPUTS = 10
#: What importance is measured by, and the whole of which it is a share.
LOSSES = {"variance": "squared error", "deviance": "deviance"}
SHARES = {"variance": "the variance of", "deviance": "the deviance of a constant mean of"}
#: What is printed beside estimates and criteria of a model with networks.
KNOWN = (
    "Estimates, standard errors, tests and criteria take the networks as known: a standard error leaves their "
    "uncertainty out (that of predict() does not), and AIC and BIC do not count their parameters."
)
#: What a picture of the training shows of an epoch: label and colour.
CURVES = {
    "loss": ("rows learnt from", "0.6"),
    "validation": ("rows held out", "#1f6fb4"),
    "validation_levels": ("whole levels held out", "#d9622b"),
}


def table_note(fits: Sequence[Networks | None]) -> list[str]:
    """What stands above a table of tests, criteria or limits of fits with these networks; no lines without any."""
    if all(networks is None for networks in fits):
        return []
    text = "Networks count as known: no df counts their parameters, and no standard error their uncertainty."
    if any(networks is not fits[0] for networks in fits):
        text += " They were trained anew for each model, so a chi-squared statistic has no known distribution."
    return textwrap.wrap(text, 80)


def network_text(
    networks: Networks, design: Design, importance: Importance | None = None, known: str = KNOWN
) -> list[str]:
    """Lines of the summary: one block a network, then what the other numbers mean beside them.

    Parameters
    ----------
    networks : Networks
    design : Design
    importance : Importance, optional
        What the networks explain; without it those lines are left out.
    known : str
        What the other numbers mean beside them.
    """
    lines = ["", "Networks:"]
    for k, (spec, parameters) in enumerate(zip(networks.specs, networks.n_parameters, strict=True)):
        lines += [*_wrapped(spec.label, 1), f"   {_shape(spec)}, {parameters} parameters"]
        if importance is not None:
            lines += _explained(importance, k, spec, design.response)
    lines.append(f" {_trained(networks)}")
    if importance is not None:
        which = f"{importance.n_rows} {'held-out rows' if importance.held_out else 'rows of the fit'}"
        lines += _wrapped(
            f"Explained: rise of the {LOSSES[importance.unit]} of {which} without the network, as share of "
            f"{SHARES[importance.unit]} {design.response}; importance: the same with one input permuted.",
            1,
        )
    return lines + _wrapped(known, 1)


def short_network_text(networks: Networks) -> list[str]:
    """What ``print(fit)`` says of them."""
    labels = [line for spec in networks.specs for line in _wrapped(spec.label, 1)]
    return ["Networks, taken as known by all of the above:", *labels]


def _trained(networks: Networks) -> str:
    """On what the networks were trained, and how long."""
    epochs = len(networks.history["epoch"]) // len(networks.members)
    held = networks.out_of_fold or (networks.learned is not None and not networks.learned.all())
    how = "trained on all rows"
    if networks.out_of_fold:
        how = f"cross-fitted in {len(networks.members)} folds"
    elif held and networks.learned is not None:
        how = f"trained on {int(networks.learned.any(axis=0).sum())} of {len(networks.fitted)} rows"
    best = ", ".join(dict.fromkeys(str(epoch) for epoch in networks.best_epoch))
    return f"{how}; {epochs} epochs" + (f", best by held-out rows: {best}" if held else "")


def _explained(importance: Importance, network: int, spec: NetSpec, response: str) -> list[str]:
    """The share that a network explains, and its inputs by importance."""
    sizes = [len(each.blocks) for each in importance.specs]
    table = importance.table.iloc[sum(sizes[:network]) : sum(sizes[: network + 1])]
    table = table.sort_values("importance", ascending=False, kind="stable")
    shown = [f"{row.input} {row.importance:.3f}" for row in table.head(SHOWN_INPUTS).itertuples()]
    more = f", and {len(table) - SHOWN_INPUTS} more" if len(table) > SHOWN_INPUTS else ""
    share = f"   explains {importance.explained[network]:.3f} of the {importance.unit} of {response}"
    return [share, *_wrapped(f"importance of inputs: {', '.join(shown)}{more}", 3)]


def _wrapped(text: str, indent: int) -> list[str]:
    """A long line as several, of at most 80 characters."""
    first = " " * indent
    return textwrap.wrap(
        text, 80, initial_indent=first, subsequent_indent=first + "  ", break_long_words=False, break_on_hyphens=False
    )


def _shape(spec: NetSpec) -> str:
    factors = sum(q > 0 for q in spec.levels)
    inputs = f"{len(spec.blocks)} input{'s' if len(spec.blocks) > 1 else ''}"
    arrays = [f"{block.name}[{', '.join(map(str, block.shape))}]" for block in spec.blocks if block.shape]
    if arrays:
        inputs += f" (arrays: {', '.join(arrays)})"
    if spec.class_name:
        return f"{inputs}, module {spec.class_name}"
    inputs += f" ({factors} embedded)" if factors else ""
    layers = "-".join(str(h) for h in spec.options["hidden"])
    return f"{inputs}, hidden layers {layers}, {spec.options['activation']}"


def history_frame(networks: Networks) -> pd.DataFrame:
    """One row an epoch: member, epoch, loss, validation, sigma, seconds."""
    frame = pd.DataFrame(networks.history)
    return frame.astype({"member": int, "epoch": int})


def plot_history(networks: Networks, ax: Axes | None = None) -> Axes:
    """Training and held-out errors against epochs, a line a member, the best epoch marked."""
    import matplotlib.pyplot as plt

    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    for member, part in history_frame(networks).groupby("member"):
        for column, (label, colour) in CURVES.items():
            if column in part and part[column].notna().any():
                ax.plot(part["epoch"], part[column], color=colour, lw=1.4, label=label if member == 0 else None)
    epochs = set(networks.best_epoch)
    for kept in epochs:
        ax.axvline(kept, color="0.3", lw=0.8, ls=":", label="epoch kept" if kept == min(epochs) else None)
    ax.set(xlabel="epoch", ylabel=networks.criterion)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
