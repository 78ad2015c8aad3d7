"""The real data of MC-GMENN's Table 4 that can be had: columns, preprocessing, and the network all methods share.

Files are NAME.csv.gz with a header, from OpenML (kdd_internet_usage 981, adult 1590, churn 41283, open_payments 42738,
Amazon_employee_access 4135, Click_prediction_small 41434, eucalyptus 188), UCI (Diabetes130US 296) and R's modeldata
(hpc_job_scheduling). The preprocessing is that of Pargent et al. (2022) as MC-GMENN's code has it: columns with more
than 95 percent missing, identifiers and constants are dropped; factors are text columns with at least 10 levels, or
those listed; other text becomes 0/1 columns; numbers are mean-imputed and standardised by the training rows, and
categories of two levels mode-imputed. A missing level of a factor is a level, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from baselines_deep import Recipe
from torch import nn

from benchmarks.mcgmenn.tasks import ClassTask, bars

MANY_LEVELS = 10
MOST_MISSING = 0.95
FOLDS, SEED = 5, 555


@dataclass(frozen=True)
class RealSet:
    """One data set.

    Attributes
    ----------
    response : str
    factors : tuple of str
        Columns of levels; empty for text columns with at least 10 levels.
    dropped : tuple of str
        Identifiers.
    none_is_a_level : bool
        Only empty cells are missing.
    """

    response: str
    factors: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    none_is_a_level: bool = False

    def load(self, folder: Path, name: str) -> pd.DataFrame:
        """All rows as they are in the file."""
        options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]} if self.none_is_a_level else {}
        return pd.read_csv(folder / f"{name}.csv.gz", low_memory=False, **options)

    def task(self, data: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> ClassTask:
        """Rows to learn from and rows to predict, preprocessed by the former."""
        given = data.drop(columns=list(self.dropped))
        missing = given.isna().mean()
        given = given.drop(columns=[c for c in given if missing[c] > MOST_MISSING])
        text = [c for c in given if not pd.api.types.is_numeric_dtype(given[c]) and c != self.response]
        factors = self.factors or tuple(c for c in text if given[c].nunique() >= MANY_LEVELS)
        rest = [c for c in given if c not in (*factors, self.response)]
        numbers = pd.DataFrame(
            numeric_inputs(given, [c for c in rest if c not in text], [c for c in rest if c in text], train)
        )
        frame = numbers.set_axis([f"x{j}" for j in range(numbers.shape[1])], axis=1)
        inputs = tuple(frame)
        groups = tuple(re.sub(r"\W", "_", column) for column in factors)
        for column, group in zip(factors, groups, strict=True):
            frame[group] = given[column].astype("string").fillna("missing").astype(str)
        frame["y"], classes = coded(given[self.response])
        outputs = 1 if len(classes) == 2 else len(classes)
        network = partial(TabularNetwork, len(inputs), [], 0, outputs)
        return ClassTask(
            train=frame.iloc[train].reset_index(drop=True),
            test=frame.iloc[test].reset_index(drop=True),
            response="y",
            numeric=inputs,
            groups=groups,
            mean=f"nn({', '.join(inputs)}, net='tabular', standardize=FALSE)" if inputs else "1",
            random=bars(groups),
            linear=" + ".join(inputs),
            classes=classes,
            network=TabularNetwork,
            nets={"tabular": network} if inputs else None,
        )


def numeric_inputs(data: pd.DataFrame, numbers: list[str], text: list[str], train: np.ndarray) -> pd.DataFrame:
    """Numbers and 0/1 columns of categories, standardised and imputed by the training rows; constants dropped."""
    parts = []
    for column in numbers:
        values = data[column].astype(float)
        parts.append(values.fillna(values.iloc[train].mean()))
    for column in text:
        values = data[column]
        known = values.iloc[train].dropna()
        if known.nunique() <= 2 and len(known):
            values = values.fillna(known.mode().iloc[0])
        dummies = pd.get_dummies(values, prefix=column, dtype=float)
        parts += [dummies[c] for c in (dummies.columns[1:] if dummies.shape[1] == 2 else dummies.columns)]
    if not parts:
        return pd.DataFrame(index=data.index)
    frame = pd.concat(parts, axis=1)
    frame.columns = range(frame.shape[1])
    learned = frame.iloc[train]
    frame = (frame - learned.mean()) / learned.std(ddof=0)
    return frame.loc[:, (learned.std(ddof=0) > 0).to_numpy()]


def coded(response: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """0 and 1 for two classes, else a categorical; and the names of the classes."""
    y = pd.Categorical(response.astype(str))
    classes = tuple(str(name) for name in y.categories)
    return (pd.Series(y.codes.astype(np.int64)) if len(classes) == 2 else pd.Series(y)), classes


def folds(codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and to predict, as in the authors' code."""
    from sklearn.model_selection import KFold

    yield from KFold(FOLDS, shuffle=True, random_state=SEED).split(codes)


class TabularNetwork(nn.Module):
    """AutoGluon's network for tables, as in MC-GMENN: a wide layer, two hidden ones, and a linear path beside them.

    Numbers go through one layer of ``256 * share`` units, between 32 and 2,056, where the share is that of the numeric
    columns; levels are embedded, or one-hot where ``dims`` is 0. Hidden layers have 256 and 128 units times
    ``max(1, min(C, 100) / 50)``, each with batch normalisation and dropout of 0.1, which the logits get as well.
    """

    def __init__(
        self,
        inputs: int,
        sizes: list[int],
        dims: int | list[int],
        outputs: int,
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        widths = [dims] * len(sizes) if isinstance(dims, int) else dims
        self.one_hot = not any(widths)
        share = 1.0 if self.one_hot else inputs / (inputs + len(sizes))
        first = int(np.clip(256 * share, 32, 2056))
        self.numbers = nn.Linear(inputs, first)
        self.tables = nn.ModuleList(nn.Embedding(q + 1, d or first) for q, d in zip(sizes, widths, strict=True))
        self.direct = nn.ModuleList(nn.Embedding(q + 1, outputs) for q in sizes if self.one_hot)
        for table in (*self.tables, *self.direct):
            nn.init.uniform_(table.weight, -0.05, 0.05)
            nn.init.zeros_(table.weight[-1:])  # levels not seen in training
        width = first + (0 if self.one_hot else sum(widths))
        self.linear = nn.Linear(inputs if self.one_hot else width, outputs)
        layers: list[nn.Module] = []
        for units in (int(h * max(1.0, min(outputs, 100) / 50)) for h in (256, 128)):
            layers += [nn.Linear(width, units), nn.ReLU(), nn.BatchNorm1d(units), nn.Dropout(0.1)]
            width = units
        self.deep = nn.Sequential(*layers, nn.Linear(width, outputs), nn.BatchNorm1d(outputs), nn.Dropout(0.1))

    def forward(self, X: torch.Tensor, levels: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (n,), or (n, outputs), of inputs (n, p) and level numbers (n, K)."""
        rows = [] if levels is None else [table(levels[:, k]) for k, table in enumerate(self.tables)]
        if self.one_hot:
            wide = torch.relu(self.numbers(X) + sum(rows))
            beside = self.linear(X) + sum(table(levels[:, k]) for k, table in enumerate(self.direct))
        else:
            wide = torch.cat([torch.relu(self.numbers(X)), *rows], dim=1)
            beside = self.linear(wide)
        return (self.deep(wide) + beside).squeeze(-1)


DIABETES = (
    "age", "discharge_disposition_id", "admission_source_id", "payer_code", "medical_specialty", "diag_1", "diag_2",
    "diag_3",
)  # fmt: skip
CLICK = ("ad_id", "advertiser_id", "keyword_id", "title_id", "description_id", "user_id")
AMAZON = (
    "RESOURCE", "MGR_ID", "ROLE_ROLLUP_1", "ROLE_ROLLUP_2", "ROLE_DEPTNAME", "ROLE_TITLE", "ROLE_FAMILY_DESC",
    "ROLE_FAMILY", "ROLE_CODE",
)  # fmt: skip

SETS: dict[str, RealSet] = {
    "kdd_internet_usage": RealSet("Who_Pays_for_Access_Work"),
    "adult": RealSet("class", ("occupation", "education", "native-country")),
    "churn": RealSet("class", ("state", "number_customer_service_calls"), ("phone_number",)),
    "open_payments": RealSet("status"),
    "Amazon_employee_access": RealSet("target", AMAZON),
    "Click_prediction_small": RealSet("click", CLICK),
    "hpc_job_scheduling": RealSet("class"),
    "eucalyptus": RealSet("Utility"),
    "Diabetes130US": RealSet("readmitted", DIABETES, ("patient_nbr",), True),
}
