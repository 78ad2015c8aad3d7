"""Cross-fitting where the last layer of a network varies: variances from rows not learnt from, then one network.

Members (:mod:`pylmernn.engines.nme_members`) each learn from a part of the rows. Their mean predicts better than any of
them, and rows that a member has not learnt from say honestly how much groups differ:

- The deviations of all groups, averaged over the members, have principal functions, ordered by what they explain. Each
  member has its own version of them, sums of its features.
- Variances are those of a mixed model of all rows, each with the mean and the principal functions of the member that
  has not learnt from it. Akaike's criterion chooses how many functions vary with all their covariances, or a constant
  of each group alone, or all functions in proportion to their sizes in training, with one factor to estimate.
- Given these variances the last layer of each member is solved for again, by generalised least squares: deviations
  that were noise have disturbed it in training.
- They have disturbed the layers below, too. So unless groups plainly differ there are members of which only a constant
  varies, and Akaike's criterion chooses whose mean is taken. Where nothing but a constant varies it is always theirs:
  the fit is then the network with an intercept a group.
- One network of the make that was asked for learns the members' mean and the chosen functions
  (:mod:`pylmernn.engines.nme_distil`). The effects are those of all rows given this network and the variances.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines import exact, profiled
from pylmernn.engines.atfixed import estimates_at_fixed, fixed_convergence
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import fold_trends, some_rows
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.newton import Objective, minimize
from pylmernn.engines.nme_distil import distil
from pylmernn.engines.nme_exact import DEPENDENT
from pylmernn.engines.nme_loop import train
from pylmernn.engines.nme_members import Members
from pylmernn.engines.nme_model import Given, VaryingModel, last_layer
from pylmernn.engines.profiled import Problem
from pylmernn.engines.variances import conditional_variance
from pylmernn.engines.working import to_working
from pylmernn.formula.design import Design, RandomTerm, independent_columns
from pylmernn.mean.mlp import TabularNet
from pylmernn.training.holdout import Split

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

MOST = 6  # principal functions
NOTHING = 1e-3  # of the largest of them
WIDEST = 40  # features of a last hidden layer, all of whose covariances members estimate
ROWS_EACH = 4  # for each number that varies: with fewer rows nothing is left out
PLAIN = 0.1  # as LinearSolver.plain: a share of the residual variance


def offered(model: VaryingModel) -> bool:
    """Whether the members can be had and combined: for last layers of networks that ``nn()`` makes, of few rows."""
    module = model.network.module
    if not isinstance(module, TabularNet) or not model.selected.linear or model.diagonal:
        return False
    hidden = len(module.mlp.layers) > 1
    whole = hidden and model.selected.size == last_layer(module).in_features + 1 <= WIDEST
    folds = model.training.folds or 0
    return whole and folds > 1 and model.design.n >= ROWS_EACH * model.selected.size


def nothing_held(model: VaryingModel) -> Split:
    """What the one network has not learnt from: no row, since the members together know all."""
    n = model.design.n
    return Split(np.full(n, -1, dtype=np.intp), np.zeros(n, dtype=np.bool_), 0)


class Solver(Protocol):
    """How a mixed model given networks is estimated.

    Attributes
    ----------
    plain : float
        Of Akaike's criterion a row, by which functions that beat a constant need no generic members beside them.
    """

    @property
    def plain(self) -> float:
        """See above."""

    def estimate(self, design: Design) -> Estimates:
        """All of it."""

    def in_proportion(self, design: Design, near: Estimates) -> Estimates:
        """The same with a covariance matrix that is a multiple of the identity, searched for near other estimates."""

    def at(self, design: Design, given: Estimates) -> tuple[FloatArray, FloatArray]:
        """Coefficients (p,) and effects (q, r) at variances that are given."""

    def losses(self, design: Design, predictor: FloatArray, given: Estimates) -> FloatArray:
        """Of each row, for linear predictors (n,) without the offset."""

    def settled(self, model: Any, design: Design, along: FloatArray, given: Estimates) -> Given:
        """Effects of all rows, which the model takes, given variances and the network; see :func:`one_network`."""


@dataclass(frozen=True)
class LinearSolver:
    """Of a linear mixed model, by ML or REML."""

    REML: bool
    control: Control
    plain: float = PLAIN

    def estimate(self, design: Design) -> Estimates:
        """All of it."""
        return exact.fit(design, self.REML, self.control)

    def in_proportion(self, design: Design, near: Estimates) -> Estimates:
        """With a covariance matrix that is a multiple of the identity."""
        problem, one = Problem(design, self.REML, self.control.device), identity(design)
        along = to_working(design.random, problem.transforms, one)
        search = restricted(problem.search, along[:, None])
        found = minimize(search, np.array([1.0 / near.sigma]), self.control.tolerance, noise=problem.noise)
        theta = abs(float(found.x[0])) * one
        solution = problem.solution(theta)
        return profiled.estimates_at(problem, theta, solution, fixed_convergence(len(theta)), self.control)

    def at(self, design: Design, given: Estimates) -> tuple[FloatArray, FloatArray]:
        """Coefficients (p,) and effects (q, r) at variances that are given."""
        found = estimates_at_fixed(design, given.theta, given.sigma, given.REML, self.control)
        return found.beta, found.b[0]

    def losses(self, design: Design, predictor: FloatArray, given: Estimates) -> FloatArray:
        """Weighted squared errors."""
        errors = design.y - predictor - (0.0 if design.offset is None else design.offset)
        return np.asarray(errors**2 if design.weights is None else design.weights * errors**2)

    def settled(self, model: VaryingModel, design: Design, along: FloatArray, given: Estimates) -> Given:
        """See :class:`Solver`."""
        theta = structure("us").on_diagonal(len(along)) / given.sigma
        found = estimates_at_fixed(design, theta, given.sigma, given.REML, self.control)
        model.beta = torch.tensor(found.beta)
        effects = found.b[0] @ along
        model.eta = torch.tensor(effects)
        spread = along.T @ conditional_variance(design, found)[0] @ along
        return Given(
            sigma=given.sigma,
            effects=effects,
            variances=np.einsum("qdd->qd", spread) if model.reduced else spread,
            factor=along.T,
            fixed_covariance=given.sigma**2 * given.unscaled_vcov,
            objective=given.objective,
            exact=True,
            converged=given.convergence.converged,
            message="" if given.convergence.converged else given.convergence.message,
        )


def identity(design: Design) -> FloatArray:
    """Theta of the one term of a design whose covariance matrix is the identity."""
    (term,) = design.random
    return structure(term.covariance).on_diagonal(term.width).astype(np.float64)


def restricted(objective: Objective, along: FloatArray) -> Objective:
    """An objective of x (m,), with its derivatives, as one of z (k,) where ``x = along z``."""

    def search(z: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, gradient, hessian = objective(along @ z)
        return value, along.T @ gradient, along.T @ hessian @ along

    return search


@dataclass(frozen=True)
class Functions:
    """Sums of the features of each of K members, the last of which is a constant.

    Attributes
    ----------
    mean : Tensor, shape (K, D)
    principal : Tensor, shape (K, D, R)
        For scores with a mean square of one.
    of_mean, of_principal : Members
        Whose features these are.
    """

    mean: Tensor
    principal: Tensor
    of_mean: Members
    of_principal: Members


def functions(members: Members) -> Functions:
    """Mean and principal functions of members as they are."""
    eta, known = members.random.eta, members.known
    mean = members.nets.weights.detach().double()
    share = known.double() / known.sum(0).clamp(min=1)  # of a group: members that have learnt from it count alike
    _, left = torch.linalg.qr(torch.cat(list(members.J), dim=1))
    turn, right = torch.linalg.qr(torch.cat([s[:, None] * e for s, e in zip(share, eta, strict=True)], dim=1))
    _, values, directions = torch.linalg.svd(left @ right.T)
    count = min(MOST, eta.shape[2], int((values > NOTHING * values[0]).sum()))
    if count == 0:
        return Functions(mean, eta.new_zeros(*eta.shape[::2], 0), members, members)
    scores = turn @ directions[:count].T * len(known[0]) ** 0.5
    solved = [torch.linalg.lstsq(scores[k], e[k]).solution.T for e, k in zip(eta, known, strict=True)]
    return Functions(mean, torch.stack(solved), members, members)


def out_of_fold(found: Functions) -> tuple[FloatArray, FloatArray]:
    """Mean (n,) and principal functions (n, R) at each row, of the member that has not learnt from it."""
    members = found.of_mean
    fold = members.held.member
    values = torch.einsum("knd,kd->kn", members.J, found.mean).numpy()
    every, at = np.arange(len(fold)), torch.from_numpy(fold)
    f = values[fold, every] - fold_trends(members.constants(), list(values), fold)
    columns = torch.einsum("nd,ndr->nr", found.of_principal.J[at, torch.from_numpy(every)], found.principal[at])
    return f, columns.numpy()


def linear_design(model: VaryingModel, f: FloatArray, columns: FloatArray) -> Design:
    """The mixed model with deviations along columns (n, r), given f (n,); a constant where r is 0."""
    design, term = model.design, model.term
    columns = columns if columns.shape[1] else np.ones((design.n, 1))
    names = tuple(f"direction {k + 1}" for k in range(columns.shape[1]))
    random = RandomTerm(term.group, term.codes, term.levels, columns, names, "us", term.label)
    offset = f if design.offset is None else design.offset + f
    return dataclasses.replace(design, random=(random,), varying=(), nets=(), offset=offset)


@dataclass(frozen=True)
class Chosen:
    """How many principal functions vary, 0 for a constant of each group alone.

    Attributes
    ----------
    rank : int
    estimates : Estimates
        Of the model with them.
    criterion : float
        Akaike's; a function counts as a parameter beside its variances.
    gain : float
        By which it is below that of a constant; infinite where that was not asked for.
    """

    rank: int
    estimates: Estimates
    criterion: float
    gain: float


def chosen(model: VaryingModel, found: Functions, solver: Solver) -> Chosen:
    """What varies, by rows that members have not learnt from."""
    f, columns = out_of_fold(found)
    most = columns.shape[1]
    ranks = range(most + 1) if model.term.covariance != "rr" else [min(model.rank, most)]
    best: Chosen | None = None
    constant = np.inf
    for rank in ranks:
        try:
            estimates = solver.estimate(linear_design(model, f, columns[:, :rank]))
        except np.linalg.LinAlgError:
            if best is None:
                raise
            break  # what more functions have not either
        criterion = estimates.objective + (rank * (rank + 3) if rank else 2)
        constant = constant if rank else criterion
        if best is None or criterion < best.criterion:
            best = Chosen(rank, estimates, criterion, constant - criterion)
        elif rank > best.rank + 1:
            break
    assert best is not None
    if most > 1 and len(ranks) > 1:
        try:
            together = solver.in_proportion(linear_design(model, f, columns), best.estimates)
        except np.linalg.LinAlgError:
            return best
        criterion = together.objective + 2
        if criterion < best.criterion:
            return Chosen(most, together, criterion, constant - criterion)
    return best


def solved_again(found: Functions, choice: Chosen, solver: Solver) -> tuple[Functions, Tensor]:
    """The functions with means by generalised least squares on the rows of each member, for given variances.

    Also the losses (n,) at rows not learnt from.
    """
    members = found.of_mean
    design, p = members.model.design, members.model.design.p
    means, losses = [], members.squares.clone()
    for k, rows in enumerate(members.rows):
        columns = (found.of_principal.J[k] @ found.principal[k][:, : choice.rank]).numpy()
        linear = linear_design(members.model, np.zeros(design.n), columns)
        X = np.column_stack([design.X, members.J[k].numpy()[:, : members.width - members.absorbs_constant]])
        kept = independent_columns(X[rows.numpy()], DEPENDENT)
        names = tuple(str(j) for j in kept)
        wider = dataclasses.replace(linear, X=X[:, kept], fixed_names=names)
        assert wider.offset is not None
        learnt = dataclasses.replace(some_rows(wider, rows.numpy()), offset=wider.offset[rows.numpy()])
        coefficients, effects = solver.at(learnt, choice.estimates)
        beta = np.zeros(p + members.width)
        beta[kept] = coefficients
        means.append(torch.tensor(beta[p:]))
        (term,) = wider.random
        predictor = wider.X @ coefficients + np.einsum("nr,nr->n", term.columns, effects[term.codes])
        held = np.flatnonzero(members.held.member == k)
        losses[held] = torch.from_numpy(solver.losses(wider, predictor, choice.estimates)[held])
    return dataclasses.replace(found, mean=torch.stack(means)), losses


def combined(found: Functions, prepared: Tensor) -> Tensor:
    """Mean and principal functions, averaged over the members, at inputs (m, k), (m, 1 + R)."""
    mean = torch.einsum("kmd,kd->m", found.of_mean.columns(prepared), found.mean)
    principal = torch.einsum("kmd,kdr->mr", found.of_principal.columns(prepared), found.principal)
    return torch.cat([mean[:, None], principal], dim=1) / found.of_mean.count


def settled_choice(found: Functions, solver: Solver) -> tuple[Functions, Chosen, Tensor]:
    """What varies, with means solved for again, and the losses (n,) at rows not learnt from."""
    model = found.of_mean.model
    found, losses = solved_again(found, chosen(model, found, solver), solver)
    return found, chosen(model, found, solver), losses


def finish(members: Members, solver: Solver, again: bool = True) -> Given:
    """The one network with its effects and variances; the model of the members, its scale absorbed, changes to it.

    Parameters
    ----------
    members : Members
        Trained.
    solver : Solver
    again : bool, default True
        Whether generic members may be trained.
    """
    model = members.model
    found, choice, members.settled_squares = settled_choice(functions(members), solver)
    if again and choice.gain < solver.plain * model.design.n:
        generic = type(members)(model, generic=True)
        best, _, stopped = train(generic, None)
        generic.restore(best.state, not stopped)
        own = dataclasses.replace(found, mean=generic.nets.weights.detach().double(), of_mean=generic)
        own, other, losses = settled_choice(own, solver)
        if choice.rank == 0 or other.criterion <= choice.criterion:
            found, choice, members.settled_squares = own, other, losses
    rank, estimates = choice.rank, choice.estimates
    factor = torch.tensor(estimates.sigma * structure("us").Lambda(estimates.theta, max(1, rank)))
    principal = found.principal[:, :, :rank] @ factor[:rank, :rank]  # for scores that are N(0, I)
    wanted = dataclasses.replace(found, principal=principal)
    start = {name: value[0] for name, value in found.of_mean.nets.state().items()}
    weights = distil(model, start, lambda prepared: combined(wanted, prepared)).numpy()
    constant = np.zeros((1, weights.shape[1]))
    constant[0, -1] = float(factor[0, 0])
    return one_network(model, weights[0], weights[1:] if rank else constant, estimates, solver)


def one_network(
    model: VaryingModel, mean: FloatArray, along: FloatArray, variances: Estimates, solver: Solver
) -> Given:
    """Effects of all rows, given variances and the layers below the last one.

    Parameters
    ----------
    model : VaryingModel
    mean : ndarray, shape (D,)
        The last layer.
    along : ndarray, shape (r, D)
        Deviations of it are sums of these, with scores from N(0, I).
    variances : Estimates
        Of the rows not learnt from.
    solver : Solver
    """
    layer = last_layer(model.network.module)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(mean[None, :-1]))
        layer.bias.copy_(torch.from_numpy(mean[-1:]))
    model.scale = 1.0
    model.network.module.eval()
    _, derivatives = model.network.jacobian(model.prepared, torch.zeros_like(model.eta).float(), model.codes)
    H = derivatives.double().numpy()
    return solver.settled(model, linear_design(model, H @ mean, H @ along.T), along, variances)
