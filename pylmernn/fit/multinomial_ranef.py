"""Random effects and coefficients of each class, in tables by level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.fit.ranef import data_frame, terms_by_group
from pylmernn.formula.design import Design, DesignError, FloatArray, RandomTerm

INTERCEPT = "(Intercept)"


class ClassRanef(dict[str, pd.DataFrame]):
    """Effects by class: a dict from grouping factor to a table, levels by classes.

    Where a factor has other columns than the intercept, the columns of its table are pairs of column and class.

    Attributes
    ----------
    condVar : dict of str to DataFrame, or None
        Posterior variances, shaped as the effects.
    """

    condVar: dict[str, pd.DataFrame] | None = None

    def condsd(self) -> dict[str, pd.DataFrame]:
        """Posterior standard deviations, shaped as the effects."""
        if self.condVar is None:
            raise DesignError("these random effects have no variances: ask for ranef(condVar=True).")
        return {group: table.pow(0.5) for group, table in self.condVar.items()}

    def as_frame(self) -> pd.DataFrame:
        """One row for each effect.

        Returns
        -------
        DataFrame
            Columns grpvar, term, class, grp, condval, and condsd where the variances are known.
        """
        spread = self.condsd() if self.condVar is not None else None
        parts = []
        for group, table in self.items():
            for j, (column, name) in enumerate(column_classes(table)):
                part = pd.DataFrame(
                    {"grpvar": group, "term": column, "class": name, "grp": table.index, "condval": table.iloc[:, j]}
                )
                if spread is not None:
                    part["condsd"] = spread[group].iloc[:, j].to_numpy()
                parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def __str__(self) -> str:
        text = "\n".join(f"${name}\n{data_frame(_plain(table))}\n" for name, table in self.items())
        if self.condVar is not None:
            text += "\nwith conditional variances for " + " ".join(f"“{name}”" for name in self)
        return text

    __repr__ = __str__


def column_classes(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The column and class of each column of a table."""
    if isinstance(table.columns, pd.MultiIndex):
        return [(str(column), str(name)) for column, name in table.columns]
    return [(INTERCEPT, str(name)) for name in table.columns]


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table with pairs of column and class as one label."""
    if not isinstance(table.columns, pd.MultiIndex):
        return table
    return table.set_axis([f"{column}:{name}" for column, name in table.columns], axis=1)


def _table(terms: Sequence[RandomTerm], parts: Sequence[FloatArray], classes: Sequence[str]) -> pd.DataFrame:
    """Values (q, d_k, C) of the terms of one factor side by side."""
    index = pd.Index(terms[0].levels, name=terms[0].group)
    names = [name for term in terms for name in term.column_names]
    values = np.concatenate(parts, axis=1).reshape(len(index), -1)
    if names == [INTERCEPT]:
        return pd.DataFrame(values, index=index, columns=pd.Index(classes, name="class"))
    pairs = pd.MultiIndex.from_tuples([(name, c) for name in names for c in classes], names=["column", "class"])
    return pd.DataFrame(values, index=index, columns=pairs)


def random_effects(design: Design, estimates: MultinomialEstimates, condVar: bool = False) -> ClassRanef:
    """Posterior means by grouping factor; terms that share a factor share a table. Variances with ``condVar``."""
    tables, variances = ClassRanef(), {}
    for group, members in terms_by_group(design.random).items():
        terms = [design.random[k] for k in members]
        tables[group] = _table(terms, [estimates.b[k] for k in members], estimates.classes)
        variances[group] = _table(terms, [estimates.variances[k] for k in members], estimates.classes)
    tables.condVar = variances if condVar else None
    return tables


def coefficients(fixed: pd.DataFrame, effects: ClassRanef) -> ClassRanef:
    """Fixed plus random coefficient for each level and class; random columns without a fixed effect come first.

    Parameters
    ----------
    fixed : DataFrame, shape (p, C)
    effects : ClassRanef
    """
    tables = ClassRanef()
    for group, table in effects.items():
        pairs = column_classes(table)
        known = [str(name) for name in fixed.index]
        names = [name for name in dict.fromkeys(column for column, _ in pairs) if name not in known] + known
        classes = [str(c) for c in fixed.columns]
        base = fixed.reindex(names).fillna(0.0).to_numpy(dtype=float)
        values = np.repeat(base[None], len(table), axis=0)
        for j, (column, name) in enumerate(pairs):
            values[:, names.index(column), classes.index(name)] += table.iloc[:, j].to_numpy()
        columns: pd.Index
        if names == [INTERCEPT]:
            columns = pd.Index(classes, name="class")
        else:
            columns = pd.MultiIndex.from_tuples([(v, c) for v in names for c in classes], names=["column", "class"])
        tables[group] = pd.DataFrame(values.reshape(len(table), -1), index=table.index, columns=columns)
    return tables
