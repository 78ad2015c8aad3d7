"""Danceability of songs by subgenre, as in Table 3 of Woerner et al. (2023).

    python benchmarks/nme/spotify.py --data FOLDER --seeds 3
    python benchmarks/nme/spotify.py --data FOLDER --split date --models plain,last,all

FOLDER (or the environment variable PYLMERNN_DATA) has spotify_songs.csv.gz of TidyTuesday, 2020-01-21. The task is that
of Simchoni & Rosset (2023), which the paper takes over: 28,356 tracks, danceability from 14 numbers (popularity, year,
month, eleven audio features), and the subgenres of a track's playlists joined into one group. Of the 553 groups the
paper keeps those with 20 rows or more: 58 groups and 26,844 rows, and so many are found here.

Each group is split into 60% for training, 20% for validation and 20% for the test. The authors' code takes the order of
the rows in the table of Simchoni & Rosset, which is not ours to have; "index" takes the order of track ids, which is
the order after their grouping by track and as good as random, "date" that of release dates, so that the test has later
songs. The paper normalises the root mean squared error by "the standard deviation of the ground truth labels on the
test set" and averages it over groups: both readings are printed, the deviation of all test rows and each group's own.

"plain" is the paper's Generic-MLP, a network that knows no group; "intercept" has an intercept a group beside it,
"slopes" also independent slopes of all inputs;
"mlp-lme", "specific" and "gpboost" are those of baselines.py; "lme4" is the linear model with random slopes of all
inputs, in which lmernn() has lme4's numbers. The paper chooses learning rate, layers and weight decay on the validation
rows. Here the baselines choose weight decay and when to stop on them, and nothing else is chosen: ours take the
defaults and see the training rows alone, of which they hold some out themselves. ``--refit`` gives ours and, once their
number is chosen, the trees of GPBoost the validation rows to learn from, too.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are loaded

import argparse  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from baselines import BASELINES, Task  # noqa: E402

import pylmernn  # noqa: E402

INPUTS = (
    "popularity", "year", "month", "energy", "key", "loudness", "mode", "speechiness", "acousticness",
    "instrumentalness", "liveness", "valence", "tempo", "minutes",
)  # fmt: skip
FEWEST = 20
PAPER = {"plain": 0.711, "mlp-lme": 0.685, "specific last": 0.794, "last": 0.679, "specific": 0.770, "all": 0.690}


def songs(folder: Path) -> pd.DataFrame:
    """One row a track of a group with enough rows, in order of track ids."""
    raw = pd.read_csv(folder / "spotify_songs.csv.gz")
    subgenre = raw.groupby("track_id")["playlist_subgenre"].agg(lambda names: "|".join(sorted(set(names))))
    data = raw.drop_duplicates("track_id").set_index("track_id").sort_index()
    date = data["track_album_release_date"].str.split("-", expand=True)
    data["subgenre"], data["minutes"] = subgenre, data["duration_ms"] / 60_000
    data["year"], data["month"] = date[0].astype(float), date[1].astype(float).fillna(0)
    data["popularity"] = data["track_popularity"]
    many = data.groupby("subgenre")["danceability"].transform("size") >= FEWEST
    return data.loc[many, [*INPUTS, "danceability", "subgenre", "track_album_release_date"]].reset_index(drop=True)


def parts(data: pd.DataFrame, split: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training, validation and test rows: the first 60%, 20% and 20% of each group."""
    if split == "date":
        data = data.sort_values("track_album_release_date", kind="stable")
    groups = data.groupby("subgenre")["danceability"]
    share = (groups.cumcount() + 0.5) / groups.transform("size")
    return data[share <= 0.6], data[(share > 0.6) & (share <= 0.8)], data[share > 0.8]


def formulas(hidden: tuple[int, ...]) -> dict[str, str]:
    """Ours, by name."""
    net = f"nn({', '.join(INPUTS)}, hidden=c({', '.join(map(str, hidden))}))"
    linear = " + ".join(INPUTS)
    return {
        "intercept": f"danceability ~ {net} + (1 | subgenre)",
        "last": f"danceability ~ {net} + (nn.last | subgenre)",
        "all": f"danceability ~ {net} + (nn | subgenre)",
        "slopes": f"danceability ~ {net} + {linear} + ({linear} || subgenre)",
        "lme4": f"danceability ~ {linear} + ({linear} | subgenre)",
    }


def predictions(
    model: str,
    train: pd.DataFrame,
    held: pd.DataFrame,
    test: pd.DataFrame,
    hidden: tuple[int, ...],
    seed: int,
    refit: bool,
) -> np.ndarray:
    """Of the test rows."""
    if model in BASELINES:
        both = pd.concat([train, held], ignore_index=True)
        chooses = np.arange(len(both)) >= len(train)
        return BASELINES[model](Task(both, test, "danceability", INPUTS, "subgenre", hidden, chooses, refit), seed)
    train = pd.concat([train, held]) if refit else train
    if model in ("slopes", "lme4"):
        scaled = [table.copy() for table in (train, test)]
        for table in scaled:
            table[list(INPUTS)] = (table[list(INPUTS)] - train[list(INPUTS)].mean()) / train[list(INPUTS)].std()
        train, test = scaled
    return np.asarray(pylmernn.lmernn(formulas(hidden)[model], train, seed=seed).predict(test))


def own_deviation(y: np.ndarray, guess: np.ndarray) -> float:
    """Root mean squared error over the standard deviation of a group's own responses."""
    return float(np.sqrt(np.mean((y - guess) ** 2)) / np.std(y))


def main() -> None:
    """One line a model and seed, then means and intervals of the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PYLMERNN_DATA"), help="folder of the data")
    parser.add_argument("--split", choices=("index", "date"), default="index")
    parser.add_argument(
        "--models",
        default="plain,intercept,last,all,slopes,specific last,specific,mlp-lme,gpboost,gpboost slopes,lme4",
    )
    parser.add_argument("--hidden", default="64,32", help="layers of every network")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--refit", action="store_true", help="ours and GPBoost learn from the validation rows, too")
    options = parser.parse_args()
    if options.data is None:
        raise SystemExit("tell where the data are: --data FOLDER, or the environment variable PYLMERNN_DATA.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = songs(Path(options.data))
    train, held, test = parts(data, options.split)
    hidden = tuple(int(size) for size in options.hidden.split(",") if size)
    models = options.models.split(",")
    y, group = test["danceability"].to_numpy(), test["subgenre"].to_numpy()
    print(f"{len(data)} rows, {data['subgenre'].nunique()} groups: {len(train)}, {len(held)}, {len(test)} rows")
    print(f"{'model':16}{'seed':>5}{'NRMSE':>9}{'own sd':>9}{'R^2':>8}{'CPU s':>8}")
    found: dict[str, list[np.ndarray]] = {model: [] for model in models}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for model in models:
            begun = time.process_time()
            guess = predictions(model, train, held, test, hidden, seed, options.refit)
            seconds = time.process_time() - begun
            found[model].append(guess)
            one, own = errors(y, guess, group)
            r2 = 1 - np.mean((y - guess) ** 2) / np.var(y)
            print(f"{model:16}{seed:5}{one:9.4f}{own:9.4f}{r2:8.4f}{seconds:8.1f}", flush=True)
    report(found, y, group)


def errors(y: np.ndarray, guess: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Means over groups, normalised by the deviation of all responses and by each group's own."""
    one = pylmernn.group_metrics(y, guess, group, "nrmse")["nrmse"].mean()
    own = pylmernn.group_metrics(y, guess, group, own_deviation)["metric"].mean()
    return float(one), float(own)


def report(found: dict[str, list[np.ndarray]], y: np.ndarray, group: np.ndarray) -> None:
    """Means over seeds beside the paper's, and differences to "last" with intervals from resampled groups."""
    print(f"\n{'model':16}{'NRMSE':>9}{'own sd':>9}{'paper':>8}   less that of last (first seed; 95% interval)")
    for model, guesses in found.items():
        one, own = np.mean([errors(y, guess, group) for guess in guesses], axis=0)
        apart = ""
        if "last" in found and model != "last":
            pair = pylmernn.paired_bootstrap(y, guesses[0], found["last"][0], group, "nrmse")
            apart = f"{pair.difference:+.4f} ({pair.lower:+.4f} to {pair.upper:+.4f})"
        print(f"{model:16}{one:9.4f}{own:9.4f}{PAPER.get(model, float('nan')):8.3f}   {apart}")


if __name__ == "__main__":
    main()
