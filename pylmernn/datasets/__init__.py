"""The few small data sets that examples use, with the column types they have in R."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_READ_AS = {"float": "str", "integer": "int64", "logical": "bool", "factor": "str", "character": "str"}
_FOLDER = Path(__file__).parent / "data"


def names() -> list[str]:
    """Names of the data sets that :func:`load` knows.

    Returns
    -------
    list of str

    Examples
    --------
    >>> "sleepstudy" in names()
    True
    """
    return sorted(_column_types(_FOLDER))


def load(name: str) -> pd.DataFrame:
    """One of the data sets of the examples, as a DataFrame.

    Parameters
    ----------
    name : str
        ``"sleepstudy"`` (180 rows: reaction times over days without sleep, Belenky et al. 2003), ``"Dyestuff"`` and
        ``"Dyestuff2"`` (30 rows each: yields by batch, Davies and Goldsmith 1972, Box and Tiao 1973), ``"Penicillin"``
        (144 rows: plates crossed with samples) and ``"Pastes"`` (60 rows: casks within batches, both Davies and
        Goldsmith 1972), ``"cake"`` (270 rows: breaking angles, Cook 1938), ``"InstEval"`` (73,421 rows: lecture
        evaluations by 2,972 students of 1,128 lecturers at ETH Zurich), ``"egsingle"`` (7,230 rows: mathematics scores
        of 1,721 children in 60 schools over six years, as in R's mlmRev; Raudenbush and Bryk 2002), ``"cbpp"`` (56
        rows: a disease of cattle in 15 herds, Lesnoff et al. 2004), ``"VerbAgg"`` (7,584 rows: 316 persons answer 24
        questions about verbal aggression, De Boeck and Wilson 2004), ``"Contraception"`` (1,934 women in 60 districts
        of Bangladesh, Huq and Cleland 1990), ``"guImmun"`` (2,159 children of 1,595 mothers in Guatemala and whether
        they were immunised, Rodriguez and Goldman 2001; both as in mlmRev) or ``"spotify_songs"`` (28,351 tracks of
        10,691 artists with Spotify's audio features, from TidyTuesday 2020-01-21, CC0: one row a track, albums
        numbered, features rounded, ``genre`` that of the first playlist it was found in).

    Returns
    -------
    DataFrame
        A new copy at each call. R's factors are categorical columns, in R's order of levels.

    Raises
    ------
    ValueError
        For a name that is not there.

    Examples
    --------
    >>> load("sleepstudy").shape
    (180, 3)
    """
    if name not in _column_types(_FOLDER):
        raise ValueError(f"there is no data set '{name}': choose one of {', '.join(names())}.")
    data = read(_FOLDER, name)
    data.attrs["name"] = name  # so that a fit can say what it was fitted to
    return data


def read(folder: str | Path, name: str) -> pd.DataFrame:
    """The set ``name`` of a folder that holds ``NAME.csv.gz`` files and their types in ``columns.json``.

    Parameters
    ----------
    folder : path
    name : str

    Returns
    -------
    DataFrame
    """
    folder = Path(folder)
    types = _column_types(folder)[name]
    frame = pd.read_csv(
        folder / f"{name}.csv.gz",
        dtype={column: _READ_AS[kind["type"]] for column, kind in types.items()},
        na_values=["NA"],
        keep_default_na=False,
    )
    for column, kind in types.items():
        if kind["type"] == "factor":
            frame[column] = pd.Categorical(frame[column], categories=kind["levels"], ordered=kind["ordered"])
        elif kind["type"] == "float":  # pandas' fast parser may miss the last bit, a conversion of text does not
            frame[column] = frame[column].to_numpy(dtype=object, na_value="nan").astype(np.float64)
    return frame


def _column_types(folder: Path) -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    return types
