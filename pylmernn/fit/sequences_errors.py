"""Residuals of sequence models, and standard errors of what all groups share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pylmernn.engines import nme_crf_predict as values
from pylmernn.engines.nme_crf_estimates import SequenceEstimates
from pylmernn.fit import inference
from pylmernn.formula.design import Design, DesignError

RESIDUAL_TYPES = ("response", "pearson", "deviance")


class SequenceErrors:
    """Verbs of :class:`pylmernn.fit.sequences.SequenceFit`."""

    design: Design
    estimates: SequenceEstimates
    fixef: Any
    fitted: Any
    _rows: Any
    _with_omitted: Any

    def residuals(self, type: str = "response") -> pd.DataFrame | pd.Series:
        """Residuals of the rows of the fit, the deviations of their groups as they are.

        Parameters
        ----------
        type : {"response", "pearson", "deviance"}
            "response" is one for the observed state and zero for the others, less :meth:`fitted`, a column a state;
            "pearson" divides that by ``sqrt(p (1 - p))``. "deviance" is ``sqrt(-2 log p)``, one number a row, with p
            the probability of the observed state given the states before it and the inputs of the whole sequence. Its
            squares add up to :meth:`deviance`, within each sequence too.

        Raises
        ------
        DesignError
            For another type.
        """
        if type not in RESIDUAL_TYPES:
            raise DesignError(f"residuals of type '{type}' are not known: use one of {', '.join(RESIDUAL_TYPES)}.")
        if type == "deviance":
            model, data, sequences, names = self._rows(None, None, False, states=True)
            steps = sequences.spread(values.log_probabilities(model, data, self.estimates.effects), len(names))
            return self._with_omitted(pd.Series(np.sqrt(np.maximum(-2.0 * steps, 0.0)), index=names), None)
        p = self.fitted()
        observed = pd.Series(np.full(len(p), -1), index=p.index)
        inside = p.notna().all(axis=1).to_numpy()
        observed[inside] = self.design.y.astype(np.int64)
        raw = (observed.to_numpy()[:, None] == np.arange(p.shape[1])) - p
        if type == "pearson":
            raw = raw / np.sqrt(np.maximum(p * (1.0 - p), np.finfo(float).tiny))
        return raw

    resid = residuals

    def vcov(self) -> pd.DataFrame:
        """Covariance of :meth:`fixef`, coefficients and shared transitions, each centred as they are there.

        From the information in the likelihood maximised over the deviations, network and variances taken as known.
        Coefficients of a column add up to zero over the states and transitions to zero, so the matrix is singular. A
        move that never occurs has a huge variance. An intercept and the moves towards its state are told apart by the
        first and last times of the sequences alone, so with few sequences the variances of both are large.
        """
        names = list(self.fixef().index)
        return pd.DataFrame(self.estimates.fixed_covariance, index=names, columns=names)

    def confint(
        self, parm: str | Sequence[str] | None = None, level: float = 0.95, method: str = "Wald"
    ) -> pd.DataFrame:
        """Wald intervals of :meth:`fixef`, by :meth:`vcov`.

        Parameters
        ----------
        parm : str or sequence of str, optional
            Names of :meth:`fixef`; by default all.
        level : float, default 0.95
        method : {"Wald"}

        Returns
        -------
        DataFrame
            Columns "2.5 %" and "97.5 %".

        Raises
        ------
        DesignError
            For another method, level or name.
        """
        if method != "Wald":
            raise DesignError(f"confint of sequences of states has no method '{method}': use 'Wald'.")
        if not 0 < level < 1:
            raise DesignError(f"level is {level}: use a number between 0 and 1.")
        beta, errors = self.fixef(), np.sqrt(np.diagonal(self.estimates.fixed_covariance))
        wanted = list(beta.index) if parm is None else [parm] if isinstance(parm, str) else list(parm)
        for name in wanted:
            if name not in beta.index:
                raise DesignError(f"there is no coefficient '{name}': there are {', '.join(beta.index)}.")
        limits = inference.wald_limits(beta.to_numpy(), errors, level)
        return pd.DataFrame(limits, index=beta.index, columns=inference.percent_labels(level)).loc[wanted]

    def _coefficients(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Estimates, standard errors and z values of the coefficients; and standard errors of transitions (S, S)."""
        beta, states = self.fixef(), list(self.estimates.classes)
        errors = np.sqrt(np.diagonal(self.estimates.fixed_covariance))
        table = pd.DataFrame({"Estimate": beta, "Std. Error": errors, "z value": beta / errors})
        of_moves = pd.DataFrame(errors[-(len(states) ** 2) :].reshape(len(states), -1), index=states, columns=states)
        return table.iloc[: -(len(states) ** 2)], of_moves
