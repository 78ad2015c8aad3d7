"""What networks that vary by group are compared with: each a function of a :class:`Task` and a seed to predictions.

``specific`` and ``specific_last`` are the Specific-MLP of Woerner et al. (2023): a network a person, or a last layer a
person on shared layers below, trained on the loss alone; ``plain`` is their Generic-MLP, which knows no group.
``mlp_lme`` is their MLP-LME (Xiong et al. 2019): a last layer that varies, by EM, with the network trained in turns on
what the deviations leave. ``gpboost`` has an intercept a person beside boosted trees, ``gpboost_slopes`` a slope of
every input too. All keep the epoch, round or number of trees that is best on held-out rows, as our fits do; the
networks also choose their weight decay so.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor

DECAYS = (0.0, 1e-4, 1e-3)  # the paper's
RATE, EPOCHS, PATIENCE = 0.01, 5000, 400
ROUNDS, ROUND_EPOCHS, ROUND_PATIENCE, EM_STEPS = 40, 10, 8, 3
TREES, TREE_PATIENCE, TREE_RATE = 500, 25, 0.05


@dataclass(frozen=True)
class Task:
    """Rows to learn from and rows to predict.

    Attributes
    ----------
    train, test : DataFrame
        All groups of ``test`` are in ``train``.
    y : str
    inputs : tuple of str
    group : str
    hidden : tuple of int
        Layers of every network.
    held : ndarray of bool, shape (rows of train,)
        Rows that choose epochs, weight decay and trees; networks do not learn from them.
    refit : bool
        Whether trees, once their number is known, learn from the held rows, too.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    y: str
    inputs: tuple[str, ...]
    group: str
    hidden: tuple[int, ...]
    held: NDArray[np.bool_]
    refit: bool = True


def a_share_of_each(groups: Any, share: float, seed: int) -> NDArray[np.bool_]:
    """Rows held out at random, the same share of every group; none of a group with one row."""
    numbers = pd.Series(np.random.default_rng(seed).permutation(len(groups)), index=np.arange(len(groups)))
    by = numbers.groupby(np.asarray(groups))
    held = by.rank(method="first") <= np.maximum(np.round(share * by.transform("size")), 1)
    return np.asarray(held & (by.transform("size") > 1))


@dataclass(frozen=True)
class Rows:
    """Standardised inputs (n, k), responses (n,) and codes of groups (n,)."""

    x: Tensor
    y: Tensor
    codes: Tensor


def prepare(task: Task) -> tuple[Rows, Rows, Rows, float, float]:
    """Rows to learn from, held-out rows and test rows, with the mean and standard deviation of the response."""
    learn = task.train[~task.held]
    levels = pd.Index(task.train[task.group].unique())
    inputs, y = list(task.inputs), learn[task.y]
    centre, scale = learn[inputs].mean(), learn[inputs].std(ddof=0).replace(0.0, 1.0)

    def rows(table: pd.DataFrame) -> Rows:
        numbers = ((table[inputs] - centre) / scale).to_numpy(np.float32)
        response = ((table[task.y] - y.mean()) / y.std(ddof=0)).to_numpy(np.float32)
        codes = levels.get_indexer(table[task.group])
        return Rows(torch.from_numpy(numbers), torch.from_numpy(response), torch.from_numpy(codes))

    return rows(learn), rows(task.train[task.held]), rows(task.test), float(y.mean()), float(y.std(ddof=0))


class Specific(torch.nn.Module):
    """A perceptron of which a group has its own last layer, all layers, or none."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], groups: int, own: str) -> None:
        super().__init__()
        sizes = (inputs, *hidden, 1)
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        for j, (before, after) in enumerate(itertools.pairwise(sizes)):
            copies = groups if own == "all" or (own == "last" and j == len(hidden)) else 1
            reach = before**-0.5
            self.weights.append(torch.empty(copies, before, after).uniform_(-reach, reach))
            self.biases.append(torch.empty(copies, 1, after).uniform_(-reach, reach))

    def forward(self, x: Tensor) -> Tensor:
        """Values (groups, c) of padded inputs (groups, c, k)."""
        for j, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight) if len(weight) > 1 else x @ weight[0] + bias[0]
            x = torch.relu(x) if j + 1 < len(self.weights) else x
        return x[:, :, 0]


def padded(rows: Rows, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where row r stands: its group and its place in it; and the inputs so placed, (groups, most, k)."""
    order = torch.argsort(rows.codes, stable=True)
    counts = torch.bincount(rows.codes, minlength=groups)
    first = torch.cumsum(counts, 0) - counts
    place = torch.empty_like(rows.codes)
    place[order] = torch.arange(len(order)) - first[rows.codes[order]]
    x = torch.zeros(groups, int(counts.max()), rows.x.shape[1])
    x[rows.codes, place] = rows.x
    return rows.codes, place, x


def specific(task: Task, seed: int, own: str = "all") -> FloatArray:
    """A network a group, each trained on its own rows alone."""
    learn, held, test, mean, sd = prepare(task)
    groups = int(learn.codes.max()) + 1
    learn_at, held_at, test_at = padded(learn, groups), padded(held, groups), padded(test, groups)
    counts = torch.bincount(learn.codes, minlength=groups).float()
    shares = 1 / counts[learn.codes]  # Adam then takes each group's mean, whatever the others do
    best: tuple[float, Tensor] = (np.inf, torch.zeros(len(test.y)))
    for decay in DECAYS:
        torch.manual_seed(seed)
        net = Specific(learn.x.shape[1], task.hidden, groups, own)
        optimizer = torch.optim.Adam(net.parameters(), RATE, weight_decay=decay)
        least, since = np.inf, 0
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            i, j, x = learn_at
            errors = (net(x)[i, j] - learn.y) ** 2
            ((shares * errors).sum() if own == "all" else errors.mean()).backward()
            optimizer.step()
            with torch.no_grad():
                i, j, x = held_at
                error = float(((net(x)[i, j] - held.y) ** 2).mean())
                since += 1
                if error < least:
                    least, since = error, 0
                if error < best[0]:
                    i, j, x = test_at
                    best = (error, net(x)[i, j])
            if since >= PATIENCE:
                break
    return mean + sd * best[1].double().numpy()


def specific_last(task: Task, seed: int) -> FloatArray:
    """Shared layers and a last layer a group."""
    return specific(task, seed, "last")


def plain(task: Task, seed: int) -> FloatArray:
    """One network for all."""
    return specific(task, seed, "none")


def mlp_lme(task: Task, seed: int) -> FloatArray:
    """``y = (w + b_i)' phi(x)`` by EM: the network learns ``y - b_i' phi(x)``, then b, its covariance and sigma^2."""
    learn, held, test, mean, sd = prepare(task)
    groups = int(learn.codes.max()) + 1
    best: tuple[float, Tensor] = (np.inf, torch.zeros(len(test.y)))
    for decay in DECAYS:
        torch.manual_seed(seed)
        sizes = (learn.x.shape[1], *task.hidden)
        layers: list[torch.nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        trunk, last = torch.nn.Sequential(*layers), torch.nn.Linear(sizes[-1], 1)
        optimizer = torch.optim.Adam([*trunk.parameters(), *last.parameters()], RATE, weight_decay=decay)
        width = sizes[-1] + 1
        b, Sigma, sigma2 = torch.zeros(groups, width).double(), 0.1 * torch.eye(width).double(), 1.0
        least, since = np.inf, 0
        batch = max(32, len(learn.y) // 40)
        for _ in range(ROUNDS):
            with torch.no_grad():
                target = learn.y - (features(trunk, learn.x) * b[learn.codes]).sum(1).float()
            for _ in range(ROUND_EPOCHS):
                for part in torch.randperm(len(target)).split(batch):
                    optimizer.zero_grad()
                    loss = ((last(trunk(learn.x[part]))[:, 0] - target[part]) ** 2).mean()
                    loss.backward()
                    optimizer.step()
            with torch.no_grad():
                Z = features(trunk, learn.x)
                rest = (learn.y - last(trunk(learn.x))[:, 0]).double()
                for _ in range(EM_STEPS):
                    b, Sigma, sigma2 = em_step(Z, rest, learn.codes, groups, Sigma, sigma2)
                guesses = [
                    last(trunk(rows.x))[:, 0] + (features(trunk, rows.x) * b[rows.codes]).sum(1).float()
                    for rows in (held, test)
                ]
            error = float(((guesses[0] - held.y) ** 2).mean())
            since += 1
            if error < least:
                least, since = error, 0
            if error < best[0]:
                best = (error, guesses[1])
            if since >= ROUND_PATIENCE:
                break
    return mean + sd * best[1].double().numpy()


def features(trunk: torch.nn.Module, x: Tensor) -> Tensor:
    """Outputs of the shared layers and a constant."""
    found = trunk(x).double()
    return torch.cat([found, found.new_ones(len(found), 1)], dim=1)


def em_step(
    Z: Tensor, rest: Tensor, codes: Tensor, groups: int, Sigma: Tensor, sigma2: float
) -> tuple[Tensor, Tensor, float]:
    """Modes b (q, D), and Sigma (D, D) and sigma^2 with the posterior variance in them."""
    width = Z.shape[1]
    ZZ = Z.new_zeros(groups, width, width).index_add_(0, codes, Z[:, :, None] * Z[:, None, :])
    Zr = Z.new_zeros(groups, width).index_add_(0, codes, Z * rest[:, None])
    small = 1e-6 * torch.eye(width).double()
    variance = torch.linalg.inv(ZZ / sigma2 + torch.linalg.inv(Sigma + small))
    b = (variance @ Zr[:, :, None])[:, :, 0] / sigma2
    second = (b[:, :, None] * b[:, None, :] + variance).mean(0)
    left = float(((rest - (Z * b[codes]).sum(1)) ** 2).sum() + (ZZ * variance).sum())
    return b, second, left / len(rest)


def gpboost(task: Task, seed: int, slopes: bool = False) -> FloatArray:
    """Boosted trees with an intercept a group, or also a slope of every input."""
    import gpboost as gpb

    inputs = list(task.inputs)
    scale = task.train[inputs].std(ddof=0)
    centre, spread = task.train[task.y].mean(), task.train[task.y].std(ddof=0)  # else its first variances go astray

    def parts(table: pd.DataFrame) -> tuple[FloatArray, FloatArray, dict[str, Any]]:
        x = table[inputs].to_numpy(float)
        random: dict[str, Any] = {"group_data": table[task.group].astype(str).to_numpy()}
        if slopes:
            random["group_rand_coef_data"] = ((table[inputs] - task.train[inputs].mean()) / scale).to_numpy(float)
        return x, ((table[task.y] - centre) / spread).to_numpy(float), random

    def model(random: dict[str, Any]) -> Any:
        more = {"ind_effect_group_rand_coef": [1] * len(inputs)} if slopes else {}
        return gpb.GPModel(likelihood="gaussian", num_parallel_threads=1, **random, **more)

    def new(random: dict[str, Any]) -> dict[str, Any]:
        return {f"{name}_pred": value for name, value in random.items()}

    settings = {"learning_rate": TREE_RATE, "num_threads": 1, "seed": seed, "verbose": -1, "metric": "l2"}
    x, y, random = parts(task.train[~task.held])
    x_held, y_held, random_held = parts(task.train[task.held])
    own = model(random)
    own.set_prediction_data(**new(random_held))
    data = gpb.Dataset(x, y)
    chosen = gpb.train(
        params=settings,
        train_set=data,
        gp_model=own,
        num_boost_round=TREES,
        valid_sets=gpb.Dataset(x_held, y_held, reference=data),
        early_stopping_rounds=TREE_PATIENCE,
        use_gp_model_for_validation=True,
        verbose_eval=False,
    )
    booster, trees = chosen, max(chosen.best_iteration, 1)
    if task.refit:
        x, y, random = parts(task.train)
        booster = gpb.train(settings, gpb.Dataset(x, y), num_boost_round=trees, gp_model=model(random))
    x_test, _, random_test = parts(task.test)
    found = booster.predict(x_test, **new(random_test), predict_var=False, pred_latent=False, num_iteration=trees)[
        "response_mean"
    ]
    return np.asarray(centre + spread * found, float)


def gpboost_slopes(task: Task, seed: int) -> FloatArray:
    """With a slope of every input a group."""
    return gpboost(task, seed, slopes=True)


BASELINES = {
    "plain": plain,
    "specific": specific,
    "specific last": specific_last,
    "mlp-lme": mlp_lme,
    "gpboost": gpboost,
    "gpboost slopes": gpboost_slopes,
}
