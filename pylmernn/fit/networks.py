"""What a fit says of its networks: the block in the summary, the history of training, a picture of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pylmernn.formula.design import Design
from pylmernn.mean.networks import NetSpec, Networks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def network_text(networks: Networks, design: Design) -> list[str]:
    """Lines of the summary: one block a network, then what the other numbers mean beside them."""
    lines = ["", "Networks:"]
    for spec, parameters in zip(networks.specs, networks.n_parameters, strict=True):
        lines += [f" {spec.label}", f"   {_shape(spec)}, {parameters} parameters"]
    share = float(np.var(networks.fitted) / np.var(design.y))
    epochs = len(networks.history["epoch"]) // len(networks.members)
    best = ", ".join(str(epoch) for epoch in networks.best_epoch)
    how = f"cross-fitted in {len(networks.members)} folds" if networks.out_of_fold else "fitted on all rows"
    lines.append(f" {how}; {epochs} epochs, best by held-out rows: {best}")
    lines.append(f" variance of the networks' part over that of the response: {share:.3f}")
    lines.append(" Estimates, standard errors and criteria above take the networks as known.")
    return lines


def _shape(spec: NetSpec) -> str:
    factors = sum(q > 0 for q in spec.levels)
    inputs = f"{len(spec.blocks)} input{'s' if len(spec.blocks) > 1 else ''}"
    arrays = [f"{block.name} {block.shape}" for block in spec.blocks if block.shape]
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
    """Training and held-out error against epochs, a line a member, the best epoch marked."""
    import matplotlib.pyplot as plt

    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    for member, part in history_frame(networks).groupby("member"):
        first = member == 0
        ax.plot(part["epoch"], part["loss"], color="0.6", lw=1, label="rows learned from" if first else None)
        ax.plot(part["epoch"], part["validation"], color="#1f6fb2", lw=1.5, label="rows held out" if first else None)
        best = part[part["epoch"] == networks.best_epoch[int(str(member))]]
        ax.plot(best["epoch"], best["validation"], "o", color="#d1602b", label="epoch kept" if first else None)
    ax.set(xlabel="epoch", ylabel="mean squared error")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
