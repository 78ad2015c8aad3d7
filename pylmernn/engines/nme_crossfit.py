"""Cross-fitting where the last layer of a network varies: variances from rows not learnt from, then one network.

Members (:mod:`pylmernn.engines.nme_members`) each learn from a part of the rows. Their mean predicts better than any of
them, and rows that a member has not learnt from say honestly how much groups differ:

- The deviations of all groups, averaged over the members, have principal functions, ordered by what they explain. Each
  member has its own version of them, sums of its features.
- Variances are those of a linear mixed model of all rows, each with the mean and the principal functions of the member
  that has not learnt from it. Akaike's criterion chooses how many functions vary, or a constant of each group alone.
- Given these variances the last layer of each member is solved for again, by generalised least squares: deviations
  that were noise have disturbed it in training.
- One network of the make that was asked for learns the members' mean and the chosen functions
  (:mod:`pylmernn.engines.nme_distil`). The effects are those of all rows given this network and the variances.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pylmernn.covariance import structure
from pylmernn.engines import exact
from pylmernn.engines.atfixed import estimates_at_fixed
from pylmernn.engines.control import Control
from pylmernn.engines.crossfitting import fold_trends, some_rows
from pylmernn.engines.estimates import Estimates
from pylmernn.engines.nme_distil import distil
from pylmernn.engines.nme_exact import DEPENDENT
from pylmernn.engines.nme_members import Members
from pylmernn.engines.nme_model import Given, VaryingModel, last_layer
from pylmernn.engines.variances import conditional_variance
from pylmernn.formula.design import Design, RandomTerm, independent_columns
from pylmernn.mean.mlp import TabularNet
from pylmernn.training.holdout import Split

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

MOST = 6  # principal functions
NOTHING = 1e-3  # of the largest of them
WIDEST = 40  # features of a last hidden layer, all of whose covariances members estimate
ROWS_EACH = 4  # for each number that varies: with fewer rows nothing is left out


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


@dataclass(frozen=True)
class Functions:
    """Sums of the features of each of K members, the last of which is a constant.

    Attributes
    ----------
    mean : Tensor, shape (K, D)
    principal : Tensor, shape (K, D, R)
        For scores with a mean square of one.
    """

    mean: Tensor
    principal: Tensor


def functions(members: Members) -> Functions:
    """Mean and principal functions of members as they are."""
    eta, known = members.random.eta, members.known
    share = known.double() / known.sum(0).clamp(min=1)  # of a group: members that have learnt from it count alike
    _, left = torch.linalg.qr(torch.cat(list(members.J), dim=1))
    turn, right = torch.linalg.qr(torch.cat([s[:, None] * e for s, e in zip(share, eta, strict=True)], dim=1))
    _, values, directions = torch.linalg.svd(left @ right.T)
    count = min(MOST, eta.shape[2], int((values > NOTHING * values[0]).sum()))
    if count == 0:
        return Functions(members.nets.weights.detach().double(), eta.new_zeros(*eta.shape[::2], 0))
    scores = turn @ directions[:count].T * len(known[0]) ** 0.5
    solved = [torch.linalg.lstsq(scores[k], e[k]).solution.T for e, k in zip(eta, known, strict=True)]
    return Functions(members.nets.weights.detach().double(), torch.stack(solved))


def out_of_fold(members: Members, found: Functions) -> tuple[FloatArray, FloatArray]:
    """Mean (n,) and principal functions (n, R) at each row, of the member that has not learnt from it."""
    J, fold = members.J, members.held.member
    values = torch.einsum("knd,kd->kn", J, found.mean).numpy()
    every, at = np.arange(len(fold)), torch.from_numpy(fold)
    f = values[fold, every] - fold_trends(members.model.design.X, list(values), fold)
    columns = torch.einsum("nd,ndr->nr", J[at, torch.from_numpy(every)], found.principal[at])
    return f, columns.numpy()


def linear_design(model: VaryingModel, f: FloatArray, columns: FloatArray) -> Design:
    """The linear mixed model with deviations along columns (n, r), given f (n,); a constant where r is 0."""
    design, term = model.design, model.term
    columns = columns if columns.shape[1] else np.ones((design.n, 1))
    names = tuple(f"direction {k + 1}" for k in range(columns.shape[1]))
    random = RandomTerm(term.group, term.codes, term.levels, columns, names, "us", term.label)
    offset = f if design.offset is None else design.offset + f
    return dataclasses.replace(design, random=(random,), varying=(), nets=(), offset=offset)


def chosen(
    model: VaryingModel, f: FloatArray, columns: FloatArray, REML: bool, control: Control
) -> tuple[int, Estimates]:
    """How many principal functions vary, 0 for a constant of each group alone, and the model with them."""
    most = columns.shape[1]
    ranks = range(most + 1) if model.term.covariance != "rr" else [min(model.rank, most)]
    best: tuple[int, Estimates] | None = None
    least = np.inf
    for rank in ranks:
        found = exact.fit(linear_design(model, f, columns[:, :rank]), REML, control)
        criterion = found.objective + (rank * (rank + 3) if rank else 2)  # a direction counts as a parameter more
        if best is None or criterion < least:
            best, least = (rank, found), criterion
        elif rank > best[0] + 1:
            break
    assert best is not None
    return best


def solved_again(members: Members, found: Functions, rank: int, given: Estimates, control: Control) -> Functions:
    """The functions with means by generalised least squares on the rows of each member, for given variances.

    ``members.settled_squares`` then are the errors at rows not learnt from.
    """
    design, p, means = members.model.design, members.model.design.p, []
    offset = 0.0 if design.offset is None else design.offset
    for k, rows in enumerate(members.rows):
        columns = (members.J[k] @ found.principal[k][:, :rank]).numpy()
        linear = linear_design(members.model, np.zeros(design.n), columns)
        X = np.column_stack([design.X, members.J[k].numpy()])
        kept = independent_columns(X[rows.numpy()], DEPENDENT)
        names = tuple(str(j) for j in kept)
        wider = dataclasses.replace(linear, y=design.y - offset, X=X[:, kept], fixed_names=names)
        learnt = some_rows(wider, rows.numpy())
        solution = estimates_at_fixed(learnt, given.theta, given.sigma, given.REML, control)
        beta = np.zeros(X.shape[1])
        beta[kept] = solution.beta
        means.append(torch.tensor(beta[p:]))
        held = np.flatnonzero(members.held.member == k)
        (term,) = wider.random
        deviations = np.einsum("nr,nr->n", term.columns[held], solution.b[0][term.codes[held]])
        errors = torch.tensor(wider.y[held] - wider.X[held] @ solution.beta - deviations)
        members.settled_squares[held] = members.model.weights[held] * errors**2
    return dataclasses.replace(found, mean=torch.stack(means))


def combined(members: Members, found: Functions, prepared: Tensor) -> Tensor:
    """Mean and principal functions, averaged over the members, at inputs (m, k), (m, 1 + R)."""
    both = torch.cat([found.mean[:, :, None], found.principal], dim=2)
    return torch.einsum("kmd,kdr->mr", members.columns(prepared), both) / members.count


def finish(members: Members, REML: bool, control: Control) -> Given:
    """The one network with its effects and variances; the model of the members, its scale absorbed, changes to it."""
    model = members.model
    found = functions(members)
    rank, estimates = chosen(model, *out_of_fold(members, found), REML, control)
    found = solved_again(members, found, rank, estimates, control)
    rank, estimates = chosen(model, *out_of_fold(members, found), REML, control)
    factor = torch.tensor(estimates.sigma * structure("us").Lambda(estimates.theta, max(1, rank)))
    wanted = Functions(found.mean, found.principal[:, :, :rank] @ factor[:rank, :rank])  # for scores that are N(0, I)
    start = {name: value[0] for name, value in members.nets.state().items()}
    weights = distil(model, start, lambda prepared: combined(members, wanted, prepared)).numpy()
    constant = np.zeros((1, weights.shape[1]))
    constant[0, -1] = float(factor[0, 0])
    return one_network(model, weights[0], weights[1:] if rank else constant, estimates, control)


def one_network(
    model: VaryingModel, mean: FloatArray, along: FloatArray, variances: Estimates, control: Control
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
    control : Control
    """
    layer = last_layer(model.network.module)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(mean[None, :-1]))
        layer.bias.copy_(torch.from_numpy(mean[-1:]))
    model.scale = 1.0
    model.network.module.eval()
    _, derivatives = model.network.jacobian(model.prepared, torch.zeros_like(model.eta).float(), model.codes)
    H = derivatives.double().numpy()
    linear = linear_design(model, H @ mean, H @ along.T)
    theta = structure("us").on_diagonal(len(along)) / variances.sigma
    found = estimates_at_fixed(linear, theta, variances.sigma, variances.REML, control)
    model.beta = torch.tensor(found.beta)
    effects = found.b[0] @ along
    model.eta = torch.tensor(effects)
    spread = along.T @ conditional_variance(linear, found)[0] @ along
    return Given(
        sigma=variances.sigma,
        effects=effects,
        variances=np.einsum("qdd->qd", spread) if model.reduced else spread,
        factor=along.T,
        fixed_covariance=variances.sigma**2 * variances.unscaled_vcov,
        objective=variances.objective,
        exact=True,
        converged=variances.convergence.converged,
        message="" if variances.convergence.converged else variances.convergence.message,
    )
