"""Simulated dyads: a generic CRF, a CRF for each dyad, and CRFs whose network and transitions vary by dyad.

    python benchmarks/nme/dyads.py --settings none,moves,both --seeds 3

After Table 4 of Woerner et al. (2023). Mothers and adolescents talk while an observer notes one of four affective
states a segment. Here 60 dyads have some conversations of 20 to 40 segments to train on and 3 fresh ones to test. The
truth is a CRF: scores of states are a linear layer on tanh features of 5 inputs, transitions a matrix with a heavy
diagonal. Settings:

========  ===========================================================================================
none      all dyads alike
moves     transitions of each dyad vary (standard deviation 0.8)
scores    the last layer of each dyad varies (weights 0.3, constants 0.6)
both      both (0.6; 0.3, 0.4)
few       as both, with one conversation of 10 to 15 segments for each dyad to train on
========  ===========================================================================================

Prints for each model the mean over dyads of the accuracy and Cohen's kappa of the most probable path, the
log-likelihood of the fresh conversations a segment, how much it exceeds that of the generic CRF with its standard error
over dyads, and seconds. "specific" is trained for each dyad alone, by Adam with the best epoch by the last fifth of
each conversation and the best of several weight decays; "truth" knows all parameters.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

import pylmernn
from pylmernn.mean.crf import Chains, chains, log_likelihood, viterbi

DYADS, INPUTS, FEATURES, HIDDEN = 60, 5, 6, 8
STATES = np.array(["aggressive", "dysphoric", "other", "positive"])
NET = f"state ~ nn({', '.join(f'x{j}' for j in range(INPUTS))}, hidden=c({HIDDEN}))"
FORMULAS = {
    "generic": NET,
    "(crf | dyad)": f"{NET} + (crf | dyad)",
    "(nn.last | dyad)": f"{NET} + (nn.last | dyad)",
    "last + crf": f"{NET} + (nn.last | dyad) + (crf | dyad)",
    "all + crf": f"{NET} + (nn | dyad) + (crf | dyad)",
}
SPREADS = {  # of transitions, weights and constants; conversations to train on; shortest and longest
    "none": (0.0, 0.0, 0.0, 2, (20, 41)),
    "moves": (0.8, 0.0, 0.0, 2, (20, 41)),
    "scores": (0.0, 0.3, 0.6, 2, (20, 41)),
    "both": (0.6, 0.3, 0.4, 2, (20, 41)),
    "few": (0.6, 0.3, 0.4, 1, (10, 16)),
}
TESTS = 3
DECAYS, EPOCHS, RATE, TAIL = (0.01, 0.1, 0.3, 1.0), 400, 0.01, 0.2  # of the specific networks


@dataclass(frozen=True)
class Padded:
    """Conversations: inputs (B, T, k), states (B, T), lengths (B,), dyads (B,)."""

    x: torch.Tensor
    states: torch.Tensor
    lengths: torch.Tensor
    dyads: torch.Tensor


@dataclass(frozen=True)
class Truth:
    """Features (k, f), last layers (G, f, S), constants (G, S) and transitions (G, S, S)."""

    features: np.ndarray
    last: np.ndarray
    constants: np.ndarray
    moves: np.ndarray

    def scores(self, x: np.ndarray, dyad: int) -> np.ndarray:
        """Of the states at inputs (T, k), (T, S)."""
        return np.asarray(np.tanh(x @ self.features) @ self.last[dyad] + self.constants[dyad])


def truth_of(setting: str, rng: np.random.Generator) -> Truth:
    """Parameters of all dyads; "other" is the most frequent state, and states last."""
    moves, weights, constants = SPREADS[setting][:3]
    S = len(STATES)
    base = 0.8 * np.eye(S) + 0.3 * rng.normal(size=(S, S))
    return Truth(
        rng.normal(size=(INPUTS, FEATURES)) / np.sqrt(INPUTS) * 1.5,
        0.7 * rng.normal(size=(FEATURES, S)) + weights * rng.normal(size=(DYADS, FEATURES, S)),
        np.array([-0.4, -0.2, 0.6, 0.0]) + constants * rng.normal(size=(DYADS, S)),
        base + moves * rng.normal(size=(DYADS, S, S)),
    )


def draw(scores: np.ndarray, moves: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """States (T,) of a CRF, backward messages first."""
    after = np.zeros_like(scores)
    for t in range(len(scores) - 2, -1, -1):
        after[t] = np.logaddexp.reduce(moves + scores[t + 1] + after[t + 1], axis=1)
    states = np.zeros(len(scores), dtype=np.int64)
    for t in range(len(scores)):
        logits = scores[t] + after[t] + (moves[states[t - 1]] if t else 0.0)
        states[t] = np.argmax(logits + rng.gumbel(size=len(logits)))
    return states


def simulate(setting: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, Truth]:
    """Rows to train on and to test, and the truth."""
    rng = np.random.default_rng([seed, sorted(SPREADS).index(setting)])
    truth, parts = truth_of(setting, rng), ([], [])
    count, (least, most) = SPREADS[setting][3:]
    for dyad in range(DYADS):
        for k in range(count + TESTS):
            test = k >= count
            T = int(rng.integers(*((20, 41) if test else (least, most))))
            x = rng.normal(size=(T, INPUTS))
            columns = {f"x{j}": x[:, j] for j in range(INPUTS)}
            states = draw(truth.scores(x, dyad), truth.moves[dyad], rng)
            table = {"state": STATES[states], "dyad": f"d{dyad:02}", "talk": f"d{dyad:02}.{k}", "t": np.arange(T)}
            parts[test].append(pd.DataFrame(table | columns))
    train, test = (pd.concat(part, ignore_index=True) for part in parts)
    return train, test, truth


def padded(data: pd.DataFrame) -> Padded:
    names = [f"x{j}" for j in range(INPUTS)]
    talks = [own for _, own in data.groupby("talk")]
    lengths = torch.tensor([len(own) for own in talks])
    x, states = torch.zeros(len(talks), int(lengths.max()), INPUTS), torch.zeros(len(talks), int(lengths.max()))
    for i, own in enumerate(talks):
        x[i, : len(own)] = torch.from_numpy(own[names].to_numpy(np.float32))
        states[i, : len(own)] = torch.from_numpy(np.searchsorted(STATES, own["state"]))
    return Padded(x.double(), states.long(), lengths, torch.tensor([int(own["dyad"].iloc[0][1:]) for own in talks]))


# ---- a network for each dyad


class Specific(nn.Module):
    """Networks and transitions of all dyads, which share nothing; they are computed side by side."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> nn.Parameter:
            values = torch.rand(DYADS, *shape, generator=generator, dtype=torch.float64)
            return nn.Parameter((2 * values - 1) / shape[0] ** 0.5)

        S = len(STATES)
        self.hidden, self.last = uniform(INPUTS, HIDDEN), uniform(HIDDEN, S)
        zeros = [torch.zeros(DYADS, *shape, dtype=torch.float64) for shape in ((HIDDEN,), (S,), (S, S))]
        self.bias, self.constants, self.moves = (nn.Parameter(each) for each in zeros)

    def batch(self, data: Padded, lengths: torch.Tensor) -> Chains:
        """Conversations up to these lengths (B,)."""
        g = data.dyads
        features = torch.nn.functional.silu(data.x @ self.hidden[g] + self.bias[g][:, None])
        return chains(features @ self.last[g] + self.constants[g][:, None], self.moves[g], lengths)

    def each(self, data: Padded, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Log-likelihood of each dyad, (G,)."""
        found = log_likelihood(self.batch(data, data.lengths if lengths is None else lengths), data.states)
        return torch.zeros(DYADS, dtype=torch.float64).index_add(0, data.dyads, found)


def specific(train: Padded, seed: int) -> Specific:
    """Each dyad's best epoch at its best weight decay, by the last fifth of its conversations given the first ones."""
    heads = train.lengths - (TAIL * train.lengths).ceil().long()
    best = torch.full((DYADS,), -torch.inf, dtype=torch.float64)
    kept: dict[str, torch.Tensor] = {}
    for decay in DECAYS:
        model = Specific(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=decay)
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            (-model.each(train, heads).sum()).backward()
            optimizer.step()
            with torch.no_grad():
                held = model.each(train) - model.each(train, heads)
                better = held > best
                best = torch.where(better, held, best)
                for name, value in model.state_dict().items():
                    old = kept.setdefault(name, torch.zeros_like(value))
                    old[better] = value[better]
    model = Specific(seed)
    model.load_state_dict(kept)
    return model


# ---- answers


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa of two codings; 1 where both are constant and alike."""
    agree, S = float(np.mean(a == b)), len(STATES)
    by_chance = float((np.bincount(a, minlength=S) @ np.bincount(b, minlength=S)) / len(a) ** 2)
    return 1.0 if by_chance == 1.0 else (agree - by_chance) / (1.0 - by_chance)


@dataclass(frozen=True)
class Answers:
    """Accuracy, kappa and log-likelihood a segment of each dyad, (G,), and seconds."""

    accuracy: np.ndarray
    kappa: np.ndarray
    likelihood: np.ndarray
    seconds: float


def answers(codes: list[np.ndarray], likelihood: np.ndarray, test: Padded, seconds: float) -> Answers:
    """From the states (T,) of each conversation and the log-likelihood of each dyad."""
    right: list[float] = []
    agreement: list[float] = []
    rows = np.bincount(test.dyads.numpy(), test.lengths.numpy(), DYADS)
    for dyad in range(DYADS):
        own = [i for i in range(len(codes)) if int(test.dyads[i]) == dyad]
        found = np.concatenate([codes[i] for i in own])
        known = np.concatenate([test.states[i, : test.lengths[i]].numpy() for i in own])
        right.append(float(np.mean(found == known)))
        agreement.append(kappa(found, known))
    return Answers(np.array(right), np.array(agreement), likelihood / rows, seconds)


def of_fit(formula: str, train: pd.DataFrame, test: pd.DataFrame, data: Padded, seed: int) -> Answers:
    begun = time.process_time()
    fit = pylmernn.glmernn(formula, train, family="crf", sequence="talk", time="t", seed=seed)
    seconds = time.process_time() - begun
    states = fit.predict(test)
    codes = [np.searchsorted(STATES, states[own.index].to_numpy(str)) for _, own in test.groupby("talk")]
    found = [-0.5 * fit.deviance(own) for _, own in test.groupby("dyad")]
    return answers(codes, np.array(found), data, seconds)


def of_specific(train: Padded, test: Padded, seed: int) -> Answers:
    begun = time.process_time()
    model = specific(train, seed)
    seconds = time.process_time() - begun
    with torch.no_grad():
        best = viterbi(model.batch(test, test.lengths))[0].numpy()
        found = model.each(test).numpy()
    return answers([best[i, : test.lengths[i]] for i in range(len(best))], found, test, seconds)


def of_truth(truth: Truth, test: Padded) -> Answers:
    scores = torch.from_numpy(
        np.stack([truth.scores(x, dyad) for x, dyad in zip(test.x.numpy(), test.dyads.tolist(), strict=True)])
    )
    batch = chains(scores, torch.from_numpy(truth.moves)[test.dyads], test.lengths)
    best, each = viterbi(batch)[0].numpy(), log_likelihood(batch, test.states)
    found = torch.zeros(DYADS, dtype=torch.float64).index_add(0, test.dyads, each).numpy()
    return answers([best[i, : test.lengths[i]] for i in range(len(best))], found, test, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default="none,moves,scores,both,few")
    parser.add_argument("--models", default="generic,specific,(crf | dyad),(nn.last | dyad),last + crf,all + crf,truth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(
        f"{'setting':9}{'seed':>5}  {'model':18}{'accuracy':>9}{'kappa':>7}{'log-lik.':>10}{'over generic':>22}{'s':>7}"
    )
    for setting in arguments.settings.split(","):
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            train, test, truth = simulate(setting, seed)
            data, base = padded(test), None
            for model in arguments.models.split(","):
                if model == "specific":
                    found = of_specific(padded(train), data, seed)
                elif model == "truth":
                    found = of_truth(truth, data)
                else:
                    found = of_fit(FORMULAS[model], train, test, data, seed)
                base = base or found
                over = found.likelihood - base.likelihood
                gain = f"{over.mean():+.4f} (se {over.std(ddof=1) / DYADS**0.5:.4f})"
                text = f"{found.accuracy.mean():9.4f}{found.kappa.mean():7.3f}{found.likelihood.mean():10.4f}{gain:>22}"
                print(f"{setting:9}{seed:5}  {model:18}{text}{found.seconds:7.1f}", flush=True)


if __name__ == "__main__":
    main()
