"""Conditional modes of the random effects, and coefficients by level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pylmernn.engines.estimates import Estimates
from pylmernn.fit import rtext
from pylmernn.formula.design import Design, FloatArray, RandomTerm


class Ranef(dict[str, pd.DataFrame]):
    """Random effects: a dict from grouping factor to a table of levels by columns.

    Attributes
    ----------
    condVar : dict of str to list of ndarray (q, d, d), or None
        Conditional variances, one array for each term of the factor, in the order of the table's columns.
    """

    condVar: dict[str, list[FloatArray]] | None = None

    def condsd(self) -> dict[str, pd.DataFrame]:
        """Conditional standard deviations, shaped as the effects."""
        if self.condVar is None:
            raise ValueError("these random effects have no variances: ask for ranef(condVar=True).")
        return {
            group: pd.DataFrame(
                np.hstack([np.sqrt(np.einsum("qdd->qd", v)) for v in self.condVar[group]]),
                index=table.index,
                columns=table.columns,
            )
            for group, table in self.items()
        }

    def as_frame(self) -> pd.DataFrame:
        """One row for each effect, as R's ``as.data.frame(ranef(fit))``.

        Returns
        -------
        DataFrame
            Columns grpvar, term, grp, condval, and condsd where the variances are known.
        """
        spread = self.condsd() if self.condVar is not None else None
        parts = []
        for group, table in self.items():
            for column in table.columns:
                values = table[column].to_numpy()
                part = pd.DataFrame({"grpvar": group, "term": column, "grp": table.index, "condval": values})
                if spread is not None:
                    part["condsd"] = spread[group][column].values
                parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def __str__(self) -> str:
        text = "\n".join(f"${name}\n{data_frame(table)}\n" for name, table in self.items())
        if self.condVar is not None:
            text += "\nwith conditional variances for " + " ".join(f"“{name}”" for name in self)
        return text

    __repr__ = __str__


def data_frame(table: pd.DataFrame) -> str:
    """A table of numbers as R prints a data frame."""
    columns = [rtext.format_numbers(table[c].to_numpy(), 7) for c in table.columns]
    cells = [list(row) for row in zip(*columns, strict=True)]
    return rtext.matrix([str(i) for i in table.index], [str(c) for c in table.columns], cells, right=True)


def terms_by_group(random: Sequence[RandomTerm]) -> dict[str, list[int]]:
    """Positions of the terms of each grouping factor, factors in order of appearance."""
    groups: dict[str, list[int]] = {}
    for k, term in enumerate(random):
        groups.setdefault(term.group, []).append(k)
    return groups


def random_effects(design: Design, estimates: Estimates) -> Ranef:
    """The conditional modes; terms that share a grouping factor share a table, as in lme4."""
    tables = Ranef()
    for group, members in terms_by_group(design.random).items():
        terms = [design.random[k] for k in members]
        tables[group] = pd.DataFrame(
            np.hstack([estimates.b[k] for k in members]),
            index=pd.Index(terms[0].levels, name=group),
            columns=[name for term in terms for name in term.column_names],
        )
    return tables


def coefficients(fixed: pd.Series, effects: dict[str, pd.DataFrame]) -> Ranef:
    """Fixed plus random coefficient for each level.

    Random columns without a fixed effect come first, as in lme4.
    """
    missing = list(dict.fromkeys(c for table in effects.values() for c in table.columns if c not in fixed.index))
    base = pd.concat([pd.Series(0.0, index=missing), fixed]) if missing else fixed
    tables = Ranef()
    for group, table in effects.items():
        values = pd.DataFrame(
            np.tile(base.to_numpy(dtype=float), (len(table), 1)), index=table.index, columns=list(base.index)
        )
        for position, column in enumerate(table.columns):
            values[column] += table.iloc[:, position].to_numpy()
        tables[group] = values
    return tables
