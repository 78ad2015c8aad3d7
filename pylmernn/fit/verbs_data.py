"""The verbs that read the data of a fit, whatever was estimated: ``nobs``, ``ngrps``, ``formula`` and their kin."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pylmernn.fit import getme
from pylmernn.fit.ranef import terms_by_group
from pylmernn.fit.state import FitState
from pylmernn.formula.design import DesignError


class DataVerbs(FitState):
    """Rows, levels and matrices of a fit."""

    def nobs(self) -> int:
        """Rows in use."""
        return self.design.n

    def ngrps(self) -> dict[str, int]:
        """Number of levels of each grouping factor."""
        return {g: self.design.random[m[0]].n_levels for g, m in terms_by_group(self.design.random).items()}

    def isNLMM(self) -> bool:
        """Whether the model is nonlinear."""
        return False

    def formula(self, fixed_only: bool = False) -> str:
        """The formula as text; ``fixed_only`` leaves the random terms out."""
        return self.frame.formula.nobars() if fixed_only else str(self.frame.formula)

    def terms(self) -> list[str]:
        """Labels of the fixed-effect terms, in R's order."""
        return list(self.frame.fixed_terms.labels)

    def weights(self) -> pd.Series:
        """Prior weights of the rows."""
        values = np.ones(self.design.n) if self.design.weights is None else self.design.weights
        return self._series(values)

    def model_matrix(self, type: str = "fixed") -> pd.DataFrame:
        """The model matrix of the fixed effects, or of the random effects.

        Parameters
        ----------
        type : {"fixed", "random"}
            "random" is ``Z``, sparse, with a column for each level and column of each term.
        """
        if type == "fixed":
            return pd.DataFrame(self.design.X, index=self.frame.row_names, columns=list(self.design.fixed_names))
        if type != "random":
            raise DesignError(f"model_matrix has no type '{type}': use 'fixed' or 'random'.")
        names = [(t.group, str(level), c) for t in self.design.random for level in t.levels for c in t.column_names]
        return pd.DataFrame.sparse.from_spmatrix(  # type: ignore[attr-defined]
            getme.random_matrix(self.design),
            index=self.frame.row_names,
            columns=pd.MultiIndex.from_tuples(names, names=["group", "level", "column"]),
        )
