"""The real data sets: where their columns come from, how rows are split, and the models fitted to them.

Files are NAME.csv.gz with a header: InstEval and ChickWeight as in R (lme4, datasets), egsingle from R's mlmRev,
spotify_songs from TidyTuesday 2020-01-21, california_housing from StatLib (1990 census blocks), acs2017_county from the
American Community Survey with a county's mean coordinates as lat and long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tasks import Task


@dataclass(frozen=True)
class RealSet:
    """One data set and its models; the fields are those of :class:`tasks.Task`.

    Attributes
    ----------
    load : callable
        ``load(folder)`` gives the rows.
    mean_future, random_future : str
        Our mean, and the random part, where all later times are unseen: neither a network nor a square can be trusted
        beyond the times it has learned from.
    unit : str, optional
        Column of units followed over time: these sets can be split into each unit's earlier and later rows.
    slopes : tuple of str
        Random slopes for GPBoost: one only, as its search with the square beside it does not end within minutes.
    methods : tuple of str
        Beside ours, in the order they are printed.
    """

    load: Callable[[Path], pd.DataFrame]
    response: str
    numeric: tuple[str, ...]
    groups: tuple[str, ...]
    mean: str
    random: str
    linear: str
    methods: tuple[str, ...]
    linear_random: str | None = None
    mean_future: str = ""
    random_future: str = ""
    unit: str | None = None
    time: str | None = None
    slopes: tuple[str, ...] = ()
    coordinates: tuple[str, ...] = ()
    hidden: tuple[int, ...] = (10, 3)
    limits: tuple[float, float] | None = None

    def task(self, data: pd.DataFrame, train: np.ndarray, test: np.ndarray, clip: bool, future: bool = False) -> Task:
        """The set's models over some rows to learn from and some to predict."""
        return Task(
            train=data.iloc[train].reset_index(drop=True),
            test=data.iloc[test].reset_index(drop=True),
            response=self.response,
            numeric=self.numeric,
            groups=self.groups,
            mean=self.mean_future or self.mean if future else self.mean,
            random=self.random_future or self.random if future else self.random,
            linear=self.linear,
            linear_random=self.linear_random,
            time=self.time,
            slopes=self.slopes,
            coordinates=self.coordinates,
            hidden=self.hidden,
            limits=self.limits if clip else None,
        )


def folds(n: int, count: int = 5, seed: int = 42) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers to learn from and to predict, by random folds."""
    parts = np.array_split(np.random.default_rng(seed).permutation(n), count)
    for k, test in enumerate(parts):
        yield np.concatenate([part for j, part in enumerate(parts) if j != k]), test


def later_folds(data: pd.DataFrame, unit: str, time: str, count: int = 5) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As :func:`folds`, but a fold hides the last two fifths of the rows of a part of the units.

    The other units are known to their end, so that the shape of the later course can be learned.
    """
    late = np.zeros(len(data), dtype=bool)
    late[later_rows(data, unit, time, 0.4)[1]] = True
    number, units = pd.factorize(data[unit])
    for _, part in folds(len(units), count):
        test = late & np.isin(number, part)
        yield np.flatnonzero(~test), np.flatnonzero(test)


def later_rows(data: pd.DataFrame, unit: str, time: str, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Each unit's earlier rows, and its last ones: a share of its rows, at least one; units of one row stay whole."""
    order = data.groupby(unit, observed=True)[time].rank(method="first").to_numpy()
    count = data.groupby(unit, observed=True)[time].transform("size").to_numpy()
    last = np.where(count > 1, np.maximum(1, np.round(share * count)), 0)
    late = order > count - last
    return np.flatnonzero(~late), np.flatnonzero(late)


def _read(name: str) -> Callable[[Path], pd.DataFrame]:
    return lambda folder: pd.read_csv(folder / f"{name}.csv.gz")


def _spotify(folder: Path) -> pd.DataFrame:
    """One row a track, as in the paper: its playlists, and their subgenres, joined into one level."""
    raw = pd.read_csv(folder / "spotify_songs.csv.gz")
    joined = raw.groupby("track_id")[["playlist_id", "playlist_subgenre"]].agg(lambda x: "|".join(sorted(set(x))))
    data = raw.drop_duplicates("track_id").set_index("track_id")
    data = data.drop(columns=["playlist_id", "playlist_subgenre"]).join(joined)
    date = data["track_album_release_date"].str.split("-", expand=True)
    data["year"], data["month"] = date[0].astype(float), date[1].astype(float).fillna(0)
    data["minutes"] = data["duration_ms"] / 60_000
    names = {"track_artist": "artist", "track_album_id": "album", "playlist_id": "playlist"}
    names |= {"playlist_subgenre": "subgenre", "track_popularity": "popularity"}
    return data.rename(columns=names).dropna(subset=["artist"]).reset_index(drop=True)


def _egsingle(folder: Path) -> pd.DataFrame:
    data = pd.read_csv(folder / "egsingle.csv.gz")
    cohort = data["schoolid"].astype(str) + ":" + data["year"].astype(str)
    return data.assign(female=(data["female"] == "Female").astype(float), schoolyear=cohort)


def _chicks(folder: Path) -> pd.DataFrame:
    data = pd.read_csv(folder / "ChickWeight.csv.gz")
    diets = pd.get_dummies(data["Diet"], prefix="Diet", dtype=float)
    return pd.concat([data, diets], axis=1)


def _housing(folder: Path) -> pd.DataFrame:
    data = pd.read_csv(folder / "california_housing.csv.gz")
    logs = {f"log{name}": np.log(data[name]) for name in ("AveRooms", "AveBedrms", "Population", "AveOccup")}
    return data.assign(logvalue=np.log(data["MedHouseVal"]), **logs)


def _counties(folder: Path) -> pd.DataFrame:
    data = pd.read_csv(folder / "acs2017_county.csv.gz")
    data = data.assign(logincome=np.log(data["Income"]), logpop=np.log(data["TotalPop"]))
    data["menshare"] = data["Men"] / data["TotalPop"]
    data["employed"] = data["Employed"] / data["TotalPop"]
    return data.dropna(subset=["logincome", "lat", "long", *COUNTY]).reset_index(drop=True)


def _plus(columns: tuple[str, ...]) -> str:
    return " + ".join(columns)


def _network(columns: tuple[str, ...], options: str = "") -> str:
    return f"nn({', '.join(columns)}{options})"


INSTEVAL = ("studage", "lectage", "service")
SPOTIFY = (
    "popularity", "year", "month", "energy", "key", "loudness", "mode", "speechiness", "acousticness",
    "instrumentalness", "liveness", "valence", "tempo", "minutes",
)  # fmt: skip
EGSINGLE = ("year", "grade", "retained", "female", "black", "hispanic", "size", "lowinc", "mobility")
HOUSING = ("MedInc", "HouseAge", "logAveRooms", "logAveBedrms", "logPopulation", "logAveOccup")
COUNTY = (
    "logpop", "menshare", "Hispanic", "White", "Black", "Native", "Asian", "Pacific", "Poverty", "ChildPoverty",
    "Professional", "Service", "Office", "Construction", "Production", "Drive", "Carpool", "Transit", "Walk",
    "OtherTransp", "WorkAtHome", "MeanCommute", "employed", "PrivateWork", "PublicWork", "SelfEmployed",
    "Unemployment",
)  # fmt: skip
DIETS = ("Diet_2", "Diet_3", "Diet_4")
PEERS = ("lme4", "xgboost", "lightgbm", "gpboost")
DEEP = ("ignore", "ohe", "embedding", "te")

SETS: dict[str, RealSet] = {
    "insteval": RealSet(
        _read("InstEval"),
        "y",
        INSTEVAL,
        ("s", "d", "dept"),
        mean=_network(INSTEVAL),
        random="(1 | s) + (1 | d) + (1 | dept)",
        linear=_plus(INSTEVAL),
        methods=(*PEERS, *DEEP),
        limits=(1, 5),
    ),
    "spotify": RealSet(
        _spotify,
        "danceability",
        SPOTIFY,
        ("artist", "album", "playlist", "subgenre"),
        mean=_network(SPOTIFY),
        random="(1 | artist) + (1 | album) + (1 | playlist) + (1 | subgenre)",
        linear=_plus(SPOTIFY),
        methods=(*PEERS, *DEEP),
        hidden=(100, 50, 25, 12),
    ),
    "egsingle": RealSet(
        _egsingle,
        "math",
        EGSINGLE,
        ("childid", "schoolid", "schoolyear"),
        mean=f"{_plus(EGSINGLE)} + {_network(EGSINGLE)}",
        random="(year + I(year^2) | childid) + (year | schoolid) + (1 | schoolyear)",
        linear=_plus(EGSINGLE),
        methods=(*PEERS, *DEEP),
        random_future="(year | childid) + (year | schoolid)",
        mean_future=f"{_plus(EGSINGLE)} + {_network(EGSINGLE[2:], ', hidden=c(10, 3)')}",
        unit="childid",
        time="year",
        slopes=("year",),
    ),
    "chickweight": RealSet(
        _chicks,
        "weight",
        ("Time", *DIETS),
        ("Chick",),
        mean=f"(Time + I(Time^2)) * factor(Diet) + {_network(('Time', *DIETS))}",
        random="(Time + I(Time^2) | Chick)",
        linear="(Time + I(Time^2)) * factor(Diet)",
        methods=(*PEERS, *DEEP),
        unit="Chick",
        time="Time",
        slopes=("Time",),
    ),
    "housing": RealSet(
        _housing,
        "logvalue",
        HOUSING,
        (),
        mean=_network(HOUSING),
        random="gp(Latitude, Longitude)",
        linear=_plus(HOUSING),
        methods=("xgboost", "lightgbm", "gpboost", "svdkl", "ignore"),
        coordinates=("Latitude", "Longitude"),
        hidden=(100, 50, 25, 12),
    ),
    "county": RealSet(
        _counties,
        "logincome",
        COUNTY,
        ("State",),
        mean=f"{_plus(COUNTY)} + {_network(COUNTY)}",
        random="gp(lat, long)",
        linear=_plus(COUNTY),
        linear_random="(1 | State)",
        methods=("lme4", "xgboost", "lightgbm", "gpboost", "svdkl", "ignore"),
        coordinates=("lat", "long"),
    ),
}
