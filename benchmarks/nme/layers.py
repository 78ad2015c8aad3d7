"""Which layers should vary, and how few rows will do: figure 5 of Woerner et al. (2023) for numbers.

    python benchmarks/nme/layers.py --picture layers.png
    python benchmarks/nme/layers.py --data FOLDER --rows 6000 --picture layers.png

Left, the error at test rows of known groups against what varies: nothing (the paper's generic network), an intercept
(an ordinary bar beside a network that all share), the first layer, the last one, all; and all without what binds groups
together, a network for each (the paper's specific one). Right, the same for some of them when each group has only a
share of its training rows. The error is the mean over groups of the root mean squared error over the standard deviation
of all test responses. The paper has this figure for sequences of states; FOLDER has the songs of spotify.py (58 groups;
--rows takes so many of them), and without it 40 simulated persons, whose trends differ in every layer, have 30 rows
each. Bars are standard errors over seeds, each with its own data (simulated) or its own networks (songs).
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from baselines import BASELINES, Task, a_share_of_each  # noqa: E402

import pylmernn  # noqa: E402
from pylmernn.training.options import Training  # noqa: E402

BARS = {
    "nothing": None,
    "intercept": " + (1 | group)",
    "first layer": " + (nn.first | group)",
    "last layer": " + (nn.last | group)",
    "all layers": " + (nn | group)",
    "each its own": None,
}
OWN = {"nothing": "plain", "each its own": "specific"}  # of baselines.py
STYLES = {  # of what is shown against shares
    "nothing": ("o-", "#8a8a8a"),
    "intercept": ("s-", "#7b52ab"),
    "last layer": ("^-", "#1f6fb4"),
    "all layers": ("D--", "#d9622b"),
    "each its own": ("x-", "#2a9d5c"),
}
HELD = 0.2  # of each group's rows, by which the networks of baselines.py choose when to stop
PERSONS, ROWS, TEST_ROWS, NOISE = 40, 30, 30, 0.5


def people(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows of persons whose sines and parabolas differ in place, width and level."""
    rng = np.random.default_rng(seed)
    width, shift, level, centre = rng.normal(size=(4, PERSONS)) * np.array([0.4, 0.7, 0.5, 0.7])[:, None]
    tables = []
    for rows in (ROWS, TEST_ROWS):
        p = np.repeat(np.arange(PERSONS), rows)
        x1, x2 = rng.uniform(-2, 2, size=(2, len(p)))
        mean = np.sin((2 + width[p]) * x1 + shift[p]) + 0.5 * (x2 - centre[p]) ** 2 + level[p]
        y = mean + NOISE * rng.normal(size=len(p))
        tables.append(pd.DataFrame({"y": y, "x1": x1, "x2": x2, "group": p.astype(str)}))
    return tables[0], tables[1]


def songs(folder: Path, rows: int | None) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Training and test rows of songs, and the names of the inputs."""
    import spotify

    data = spotify.songs(folder).rename(columns={"danceability": "y", "subgenre": "group"})
    if rows is not None:
        data = data.sample(min(rows, len(data)), random_state=0).sort_index()
        data = data[data.groupby("group")["y"].transform("size") >= 10]
    place = data.groupby("group").cumcount()
    share = (place + 0.5) / data.groupby("group")["y"].transform("size")
    return data[share <= 0.8], data[share > 0.8], spotify.INPUTS


def some(train: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """A share of the rows of each group, at least two."""
    order = train.sample(frac=1.0, random_state=seed)
    place = order.groupby("group").cumcount()
    return order[place < np.maximum(2, np.ceil(share * order.groupby("group")["y"].transform("size")))].sort_index()


def error(
    name: str, train: pd.DataFrame, test: pd.DataFrame, inputs: tuple[str, ...], given: argparse.Namespace, seed: int
) -> float:
    """Mean over groups of the normalised root mean squared error."""
    hidden = tuple(given.hidden)
    if name in OWN:
        held = a_share_of_each(train["group"], HELD, seed)
        found = BASELINES[OWN[name]](Task(train, test, "y", inputs, "group", hidden, held), seed)
    else:
        network = f"nn({', '.join(inputs)}, hidden=c({', '.join(map(str, hidden))}))"
        control = pylmernn.Control(training=Training(epochs=given.epochs))
        fit = pylmernn.lmernn(f"y ~ {network}{BARS[name]}", train, seed=seed, control=control)
        found = fit.predict(test).to_numpy()
    return float(pylmernn.group_metrics(test["y"], found, test["group"], "nrmse")["nrmse"].mean())


def runs(given: argparse.Namespace) -> pd.DataFrame:
    """One row a seed, share and kind of layers."""
    records = []
    for seed in range(given.seeds):
        if given.data is None:
            train, test, inputs = *people(seed), ("x1", "x2")
        else:
            train, test, inputs = songs(given.data, given.rows)
        for share in sorted({*given.shares, 1.0}, reverse=True):
            part = train if share == 1 else some(train, share, seed)
            for name in BARS:
                if share == 1 or name in STYLES:
                    found = error(name, part, test, inputs, given, seed)
                    records.append({"seed": seed, "share": share, "varies": name, "nrmse": found})
                    print(f"seed {seed}, {share:4.0%} of the rows, {name:13} {found:.3f}", flush=True)
    return pd.DataFrame(records)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Both panels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.9), sharey=True, layout="constrained")
    grouped = table.groupby(["varies", "share"])["nrmse"]
    mean, se = grouped.mean(), grouped.sem().fillna(0.0)
    names = [name for name in BARS if (name, 1.0) in mean.index]
    for at, name in enumerate(names):
        axes[0].errorbar(at, mean[name, 1.0], se[name, 1.0], fmt="o", color="#1f6fb4", ms=6, capsize=3)
    axes[0].set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axes[0].set(xlabel="what varies by group", xlim=(-0.5, len(names) - 0.5),
                ylabel="normalised error at test rows,\nmean over groups")  # fmt: skip
    for name, (style, colour) in STYLES.items():
        shares = 100 * mean[name].index.to_numpy()
        spread = se[name] if table["seed"].nunique() > 1 else None
        axes[1].errorbar(shares, mean[name], spread, fmt=style, color=colour, ms=6, mfc="none", capsize=3, lw=1.4,
                         label=name)  # fmt: skip
    axes[1].set_xscale("log")
    ticks = 100 * np.sort(table["share"].unique())
    axes[1].set_xticks(ticks, [f"{tick:g}%" for tick in ticks])
    axes[1].minorticks_off()
    axes[1].set_xlabel("share of each group's training rows")
    axes[1].legend(frameon=False, fontsize=9, title="what varies by group", title_fontsize=9)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.92")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with spotify_songs.csv.gz")
    parser.add_argument("--rows", type=int, help="songs that are taken, by default all")
    parser.add_argument("--hidden", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.5, 1.0])
    parser.add_argument("--epochs", type=int, default=30, help="of ours")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="where the figure goes")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    table = runs(given)
    print(table.groupby(["share", "varies"], sort=False)["nrmse"].agg(["mean", "sem"]).round(3).to_string())
    if given.picture is not None:
        draw(table, given.picture)


if __name__ == "__main__":
    main()
