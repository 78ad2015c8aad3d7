"""The verbs about networks: ``history``, ``importance``, ``partial_dependence``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pandas as pd

from pylmernn.fit.effects import partial_dependence
from pylmernn.fit.importance import Importance, permutation_importance
from pylmernn.fit.losses import loss_of
from pylmernn.fit.networks import history_frame
from pylmernn.fit.state import FitState
from pylmernn.formula.design import DesignError
from pylmernn.mean.networks import Networks


class NetworkVerbs(FitState):
    """How the networks of a fit were trained, and what they found."""

    def _networks(self, lacking: str) -> Networks:
        """The networks; DesignError says what is lacking without them."""
        if self.estimates.networks is None:
            raise DesignError(f"this model has no network, so there {lacking}.")
        return self.estimates.networks

    def history(self) -> pd.DataFrame:
        """How the networks were trained: one row an epoch with loss, held-out error, sigma and seconds.

        Raises
        ------
        DesignError
            Where the model has no network.
        """
        return history_frame(self._networks("is no training to tell of"))

    def importance(self, n_repeats: int = 5, seed: int = 0) -> pd.DataFrame:
        """Permutation importance of the inputs of networks.

        How much the mean squared error rises when one input is permuted among the rows, as share of the variance of
        the response; of a generalized model the deviance, as share of that of a constant mean. Up to 5,000 rows are
        used, held-out ones where there are any, each with networks that have not learnt from it; random effects stay
        at their conditional modes. Inputs that carry the same information share their importance.

        Parameters
        ----------
        n_repeats : int, default 5
            Permutations of each input.
        seed : int, default 0
            Of the rows and the permutations.

        Returns
        -------
        DataFrame
            Columns network, input, importance and se (standard error over the permutations, of these rows).

        Raises
        ------
        DesignError
            Where the model has no network.
        """
        if n_repeats < 1:
            raise DesignError(f"n_repeats is {n_repeats}: ask for at least one permutation.")
        networks = self._networks("are no inputs to permute")
        if (n_repeats, seed) == (5, 0) and self._importance is not None:
            return self._importance.table.copy()
        loss = loss_of(self.design, self.estimates, networks)
        return permutation_importance(self.design, networks, loss, n_repeats, seed).table

    @cached_property
    def _importance(self) -> Importance | None:
        """Importance as the summary prints it; None without networks or while a module is not put back."""
        networks = self.estimates.networks
        if networks is None or any(spec.lacks_module for spec in networks.specs):
            return None
        return permutation_importance(self.design, networks, loss_of(self.design, self.estimates, networks))

    def partial_dependence(self, inputs: str | Sequence[str], grid_size: int = 40, seed: int = 0) -> pd.DataFrame:
        """The networks' part of the mean against one or two of their inputs, averaged over the others.

        Of a generalized model it is their part of the linear predictor.

        Parameters
        ----------
        inputs : str or pair of str
            Inputs of ``nn(...)`` as written there. Where several networks take an input it moves in all of them; where
            it is a fixed effect too, that does not move.
        grid_size : int, default 40
            Values of a number, from its 1% to its 99% quantile; half as many along each of two. Factors and numbers of
            few values take all of theirs.
        seed : int, default 0
            Of the rows averaged over, at most 1,000.

        Returns
        -------
        DataFrame
            One column an input, and f; of several classes a row for each, named in a column class.

        Raises
        ------
        DesignError
            For an input that no network has, or that holds arrays.
        """
        networks = self._networks("is no input to vary")
        names = [inputs] if isinstance(inputs, str) else list(inputs)
        labels = {name: record["levels"] for name, record in self.frame.records.items() if record.get("levels")}
        return partial_dependence(self.design, networks, names, labels, grid_size, seed)
