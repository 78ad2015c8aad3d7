"""``SequenceFit``: a conditional random field on a network, parts of which vary by group, with lme4's verbs."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pylmernn.engines import nme_crf_predict as values
from pylmernn.engines.nme_crf_choice import count_variances
from pylmernn.engines.nme_crf_estimates import SequenceEstimates
from pylmernn.engines.nme_crf_model import Batch, SequenceScores
from pylmernn.fit import rtext
from pylmernn.fit.likelihood import LogLik
from pylmernn.fit.ranef import Ranef
from pylmernn.fit.sequences_errors import SequenceErrors
from pylmernn.fit.transitions import TransitionVerbs
from pylmernn.fit.update import update_formula
from pylmernn.fit.varcorr import TermCovariance, VarCorr
from pylmernn.fit.varying import NOTHING
from pylmernn.fit.varying_text import SHOWN
from pylmernn.fit.varying_verbs import VaryingVerbs
from pylmernn.formula import ModelFrame
from pylmernn.formula.data import as_pandas
from pylmernn.formula.design import Design, DesignError, FloatArray, IntArray, NewRows
from pylmernn.formula.evaluate import Evaluator
from pylmernn.formula.response import read_response
from pylmernn.formula.sequences import Sequences, read_sequences
from pylmernn.formula.transforms import FUNCTIONS
from pylmernn.formula.values import Factor

TYPES = ("class", "response")


class SequenceFit(SequenceErrors, TransitionVerbs, VaryingVerbs):
    """A fitted sequence model: scores ``X beta + f(x; theta_bar + eta_i)`` of the states, transitions ``T_bar + T_i``.

    Made by :func:`pylmernn.glmernn` with ``family="crf"``. Akaike's criterion chooses the variances of each bar: one
    for each number that varies (a full covariance matrix where these are few and groups many), one in common for all
    weights of a layer, its biases or the transitions, or zero, the model without the bar, for which the network is
    trained anew. The summary says so.

    Attributes
    ----------
    design : Design
    estimates : SequenceEstimates
    frame : ModelFrame
    sequences : Sequences
        Of the rows of the fit.
    call : dict
        The arguments.
    """

    def __init__(
        self,
        design: Design,
        estimates: SequenceEstimates,
        frame: ModelFrame,
        sequences: Sequences,
        call: dict[str, Any],
    ) -> None:
        self.design, self.estimates, self.frame, self.sequences, self.call = design, estimates, frame, sequences, call

    # ---- estimates

    @property
    def _group(self) -> str:
        if not self.design.varying:
            raise DesignError("nothing varies by group in this model: add a bar such as (crf | dyad).")
        return self.design.varying[0].group

    def fixef(self) -> pd.Series:
        """Coefficients of each state, then the transitions that all groups share, centred at zero."""
        states = self.estimates.classes
        scores = {f"{n}:{s}": b for n, row in zip(self.design.fixed_names, self.estimates.beta, strict=True)
                  for s, b in zip(states, row, strict=True)}  # fmt: skip
        moves = {f"transitions[{a},{b}]": t for a, row in self.transitions().iterrows() for b, t in row.items()}
        return pd.Series({**scores, **moves})

    def transitions(self, group: Any = None) -> pd.DataFrame:
        """Scores of moves from the state of a row to that of a column, less their mean.

        Parameters
        ----------
        group : optional
            A level of the grouping factor; by default what all groups share.

        Raises
        ------
        DesignError
            For a level that the fit has not seen.
        """
        e, states = self.estimates, list(self.estimates.classes)
        found = e.transitions
        if group is not None:
            levels = [str(level) for level in self._levels]
            if str(group) not in levels:
                raise DesignError(f"'{group}' is no level of '{self._group}' that the fit has seen.")
            if e.moves:
                own = e.effects[levels.index(str(group)), -(len(states) ** 2) :]
                found = found + own.reshape(len(states), -1)
        return pd.DataFrame(found - found.mean(), index=states, columns=states)

    @property
    def _levels(self) -> Any:
        return self.design.varying[0].levels if self.design.varying else []

    def ranef(self, condVar: bool = False) -> Ranef:
        """Deviations of each group, a dict from grouping factor to a table of levels by parameters.

        Parameters
        ----------
        condVar : bool, default False
            Also posterior variances, by Laplace's approximation.
        """
        index = pd.Index(self._levels, name=self._group)
        table = pd.DataFrame(self.estimates.effects, index=index, columns=list(self.estimates.labels))
        found = Ranef({self._group: table})
        if condVar:
            found.condVar = {self._group: [self.estimates.variances]}
        return found

    def VarCorr(self) -> VarCorr:
        """Variances of what varies, named "group.network" and "group.crf"."""
        e, group, terms, at = self.estimates, self._group, [], 0
        sizes = (0 if e.selected is None else e.selected.size, len(e.classes) ** 2 if e.moves else 0)
        Sigma = e.factor @ e.factor.T
        for name, size, form in zip((self.design.nets[0].name, "crf"), sizes, e.forms, strict=True):
            inside = slice(at, at + size)
            if size:
                block = Sigma[inside, inside]
                terms.append(TermCovariance(f"{group}.{name}", e.labels[inside], block, correlated=form == "full"))
            at += size
        return VarCorr(terms, 1.0, residual=False)

    def logLik(self) -> LogLik:
        """Log-likelihood of the sequences, by Laplace's approximation, given the network."""
        e = self.estimates
        sizes = (0 if e.selected is None else e.selected.size, len(e.classes) ** 2 if e.moves else 0)
        variances = sum(count_variances(e.forms, sizes, e.labels))
        df = e.beta.size + e.transitions.size + e.networks.specs[0].n_parameters + variances
        return LogLik(-0.5 * e.objective, df, self.design.n)

    # ---- values

    def predict(
        self,
        newdata: Any = None,
        re_form: Any = None,
        allow_new_levels: bool = False,
        average: int = 0,
        seed: int = 0,
        type: str = "class",
    ) -> Any:
        """States of sequences of known groups and new ones.

        Parameters
        ----------
        newdata : DataFrame, optional
            With the columns of sequences and times; states are not needed. By default the rows of the fit (with
            ``na_action="exclude"`` all rows of the data, those that were left out with missing values).
        re_form : None or "NA", default None
            "NA" for what all groups share.
        allow_new_levels : bool, default False
            Whether groups that the fit has not seen get what all share.
        average : int, default 0
            So many draws of deviations, over which probabilities of groups without any are averaged.
        seed : int, default 0
            Of the draws.
        type : {"class", "response"}
            The most probable states of each sequence as a whole (Viterbi), or probabilities of each state at each time.
            With ``average`` the class is that of the largest averaged probability.

        Raises
        ------
        DesignError
            For new groups without ``allow_new_levels``, missing values or columns, or times that are no order.
        """
        if type not in TYPES:
            raise DesignError(f"type is '{type}': use one of {', '.join(TYPES)}.")
        if type == "response":
            return self.predict_proba(newdata, re_form, allow_new_levels, average, seed)
        model, data, sequences, names = self._rows(newdata, re_form, allow_new_levels)
        if average:
            found = values.all_probabilities(model, data, self.estimates, average, seed).argmax(axis=2)
        else:
            found = values.best_states(model, data, self.estimates.effects)
        states = np.array(self.estimates.classes, dtype=object)[sequences.spread(found, len(names))]
        return self._with_omitted(pd.Series(states, index=names), newdata)

    def predict_proba(
        self,
        newdata: Any = None,
        re_form: Any = None,
        allow_new_levels: bool = False,
        average: int = 0,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Probabilities of each state at each time given the inputs of the whole sequence; see :meth:`predict`."""
        model, data, sequences, names = self._rows(newdata, re_form, allow_new_levels)
        found = values.all_probabilities(model, data, self.estimates, average, seed)
        table = pd.DataFrame(sequences.spread(found, len(names)), index=names, columns=list(self.estimates.classes))
        return self._with_omitted(table, newdata)

    def _with_omitted(self, found: Any, newdata: Any) -> Any:
        """Missing values at rows of the fit that were left out, where ``na_action`` is "exclude"."""
        frame = self.frame
        if newdata is not None or frame.na_action != "exclude" or not len(frame.omitted):
            return found
        used = np.delete(np.arange(frame.all_rows), frame.omitted)
        order = np.argsort(np.concatenate([used, frame.omitted]))
        names = found.index.append(pd.Index(frame.omitted_names))[order]
        return found.set_axis(used).reindex(range(frame.all_rows)).set_axis(names)

    def fitted(self) -> pd.DataFrame:
        """Probabilities of each state at the rows of the fit."""
        return self.predict_proba()

    def deviance(self, newdata: Any = None, re_form: Any = None, allow_new_levels: bool = False) -> float:
        """-2 log-likelihood of the states of sequences, given the deviations of their groups.

        Raises
        ------
        DesignError
            As :meth:`predict`, and for a state that the fit has not seen.
        """
        model, data, _, _ = self._rows(newdata, re_form, allow_new_levels, states=True)
        return values.deviance(model, data, self.estimates.effects)

    def _rows(
        self, newdata: Any, re_form: Any, allow_new_levels: bool, states: bool = False
    ) -> tuple[SequenceScores, Batch, Sequences, Any]:
        """The model, padded sequences with the groups whose deviations they have, and names of the rows."""
        generic = re_form is not None and (re_form is False or str(re_form).replace(" ", "") in NOTHING)
        if re_form is not None and not generic:
            raise DesignError(f"re_form is {re_form!r}: use None, or 'NA' for what all groups share.")
        model, known = values.model_of(self.estimates), not generic and bool(self.design.varying)
        if newdata is None:
            sequences, X, inputs, names = (
                self.sequences,
                self.design.X,
                self.design.nets[0].inputs,
                self.frame.row_names,
            )
            y = self.design.y.astype(np.int64) if states else None
            codes = sequences.constant(self.design.varying[0].codes, self._group) if known else None
        else:
            rows, sequences = self._new_rows(newdata, known)
            X, inputs, names = rows.X, rows.nets[0], rows.row_names
            y = self._states(newdata) if states else None
            codes = self._codes(rows.varying[0], sequences, allow_new_levels) if known else None
        groups = np.full(len(sequences.names), -1, dtype=np.int32) if codes is None else codes
        return model, values.batch_for(model, sequences, X, inputs, groups, y), sequences, names

    def _new_rows(self, newdata: Any, known: bool) -> tuple[NewRows, Sequences]:
        """New rows without missing values, and the sequences that they make; ``known`` asks for their groups."""
        if len(as_pandas(newdata)) == 0:
            raise DesignError("the new data have no rows.")
        rows = self.frame.new_data(newdata, self.design, varying=known)
        groups = [rows.varying[0] == ""] if known else []
        missing = np.column_stack([np.isnan(rows.X), np.isnan(rows.nets[0]), *groups])
        if missing.any():
            row, place = np.argwhere(missing)[0]
            names = [*self.design.fixed_names, *self.design.nets[0].input_names, self._group if known else ""]
            raise DesignError(
                f"'{names[place]}' is missing in row {row + 1} of the new data: a sequence is taken as a whole, so "
                "fill it in, or leave the sequence out."
            )
        return rows, read_sequences(newdata, self.call["sequence"], self.call["time"])

    def _codes(self, given: NDArray[Any], sequences: Sequences, allow_new_levels: bool) -> IntArray:
        """The group (B,) of each sequence, -1 for those that the fit has not seen."""
        at = {str(level): code for code, level in enumerate(self._levels)}
        numbers, texts = pd.factorize(given.astype(str))
        own = sequences.constant(numbers.astype(np.int32), self._group)
        codes = np.array([at.get(name, -1) for name in texts], dtype=np.int32)
        if (codes < 0).any() and not allow_new_levels:
            names = [str(name) for name in texts[codes < 0]]
            shown = ", ".join(f"'{name}'" for name in names[:5]) + (", ..." if len(names) > 5 else "")
            raise DesignError(
                f"new levels in the grouping factor '{self._group}': {shown}; set allow_new_levels=True for what all "
                "share, or learn from sequences of theirs with update_ranef()."
            )
        return codes[own]

    def _states(self, newdata: Any) -> NDArray[np.int64]:
        """Codes of the states of new rows."""
        name, classes = self.design.response, list(self.estimates.classes)
        env = Evaluator(as_pandas(newdata), self.frame.state, False, FUNCTIONS)
        given = read_response(env, self.frame.formula, "crf")
        assert isinstance(given, Factor)
        missing = np.flatnonzero(given.codes < 0)
        if len(missing):
            raise DesignError(f"the response '{name}' is missing in row {missing[0] + 1} of the new data.")
        at = np.array([classes.index(state) if state in classes else -1 for state in map(str, given.levels)])
        codes = at[given.codes]
        unseen = np.flatnonzero(codes < 0)
        if len(unseen):
            state = given.levels[given.codes[unseen[0]]]
            raise DesignError(
                f"the response '{name}' is '{state}' in row {unseen[0] + 1} of the new data: the fit has not seen "
                f"that state, only {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}."
            )
        return codes.astype(np.int64)

    def update_ranef(self, newdata: Any) -> SequenceFit:
        """The same fit with the deviations of further groups, from sequences of theirs; all else stays as it is.

        A group that the fit knows gets the deviations of the new sequences alone, so give all of them.

        Raises
        ------
        DesignError
            As :meth:`deviance`.
        """
        e, group = self.estimates, self._group
        rows, sequences = self._new_rows(newdata, True)
        numbers, texts = pd.factorize(rows.varying[0].astype(str))
        codes, fresh = sequences.constant(numbers.astype(np.int32), group), [str(name) for name in texts]
        model = values.model_of(e)
        data = values.batch_for(model, sequences, rows.X, rows.nets[0], codes, self._states(newdata))
        found = values.new_effects(model, data, e.factor, len(fresh))
        names = [str(level) for level in self._levels]
        added = [name for name in fresh if name not in names]
        levels = [*names, *added]
        at, grown = [levels.index(name) for name in fresh], []
        for old, own in zip((e.effects, e.variances), found, strict=True):
            both: FloatArray = np.concatenate([old, np.zeros((len(added), *old.shape[1:]))])
            both[at] = own
            grown.append(both)
        varying = tuple(dataclasses.replace(term, levels=np.array(levels)) for term in self.design.varying)
        design = dataclasses.replace(self.design, varying=varying)
        estimates = dataclasses.replace(e, effects=grown[0], variances=grown[1])
        return SequenceFit(design, estimates, self.frame, self.sequences, self.call)

    def update(self, formula: str | None = None, **arguments: Any) -> SequenceFit:
        """The fit with some arguments of :func:`pylmernn.glmernn` changed; "." stands for what was there.

        The network is trained anew.

        Raises
        ------
        DesignError
            For a fit without its data, such as one read from a file, unless ``data=`` is given.
        """
        from pylmernn.glm import glmernn

        call = {name: value for name, value in {**self.call, **arguments}.items() if name != "data_name"}
        if call.get("data") is None:
            raise DesignError("this fit holds no data: give update(data=...).")
        call["formula"] = update_formula(self.formula(), formula) if formula else self.formula()
        return cast("SequenceFit", glmernn(**call))

    # ---- text

    def summary(self) -> str:
        """The fit at a glance, as text."""
        e = self.estimates
        lines = [
            "Sequence model, a linear-chain conditional random field ['nme']",
            f"Formula: {self.formula()}",
            f"-2 log-likelihood: {rtext.format_number(e.objective)}",
            "",
            f"Number of obs: {self.design.n}, sequences: {len(self.sequences.names)}",
        ]
        if self.design.varying:
            lines[-1] += f", groups: {self._group}, {len(self._levels)}"
            lines += ["Random effects:", str(self.VarCorr()) if len(e.labels) <= SHOWN else self._layers()]
            lines += self._chosen()
        (coefficients, errors), four = self._coefficients(), "{:.4f}".format
        if len(coefficients):
            lines += ["", "Fixed effects of each state:", coefficients.to_string(float_format=four)]
        lines += ["", "Transitions, from row to column:", self.transitions().to_string(float_format=four)]
        lines += ["", "Their standard errors:", errors.to_string(float_format=four)]
        if e.convergence.message:
            lines.append(e.convergence.message)
        return "\n".join(lines)

    def _chosen(self) -> list[str]:
        """What Akaike's criterion made of the variances of each bar, where it changed them."""
        forms = dict(zip((self.design.nets[0].name, "crf"), self.estimates.forms, strict=True))
        told = {"zero": "its variances are zero", "common": "one variance for all numbers of a kind"}
        return [
            f"{term.label}: {told[forms[term.net]]}, by Akaike's criterion."
            for term in self.design.varying
            if forms[term.net] in told
        ]

    def _layers(self) -> str:
        """Root mean squares of the standard deviations of each layer, and of transitions."""
        prior = pd.Series((self.estimates.factor**2).sum(axis=1)).groupby(list(self.estimates.layers), sort=False)
        return "\n".join(f" {layer}: {variance**0.5:.4g}" for layer, variance in prior.mean().items())

    def __str__(self) -> str:
        return self.summary()

    __repr__ = __str__
