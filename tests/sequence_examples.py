"""Simulated sequences of states with transitions of their own by dyad."""

import itertools

import numpy as np
import pandas as pd
import torch

STATES = np.array(["calm", "joy", "row"])


def dyads(groups=24, times=30, sequences=1, sd=1.0, seed=0):
    """Columns state, x1, x2, dyad, sequence, t; drawn exactly, backwards messages first."""
    rng = np.random.default_rng(seed)
    W = 1.2 * np.random.default_rng(7).normal(size=(2, 3))
    tables = []
    for i in range(groups):
        moves = np.eye(3) + sd * rng.normal(size=(3, 3))
        for k in range(sequences):
            x = rng.normal(size=(times, 2))
            scores = np.tanh(x) @ W
            after = np.zeros((times, 3))
            for t in range(times - 2, -1, -1):
                after[t] = np.log(np.exp(moves + scores[t + 1] + after[t + 1]).sum(axis=1))
                after[t] -= after[t].max()
            states = []
            for t in range(times):
                logits = scores[t] + after[t] + (moves[states[-1]] if t else 0.0)
                p = np.exp(logits - logits.max())
                states.append(rng.choice(3, p=p / p.sum()))
            columns = {"state": STATES[states], "x1": x[:, 0], "x2": x[:, 1], "dyad": f"d{i}", "t": np.arange(times)}
            tables.append(pd.DataFrame({**columns, "sequence": f"d{i}.{k}"}))
    return pd.concat(tables, ignore_index=True)


def brute_force(scores, transitions, states):
    """Log-probability of states (T,) by the sum over all paths, differentiable."""

    def score(path):
        total = sum(scores[t, s] for t, s in enumerate(path))
        return total + sum(transitions[a, b] for a, b in itertools.pairwise(path))

    paths = itertools.product(range(3), repeat=len(scores))
    return score(states.tolist()) - torch.stack([score(path) for path in paths]).logsumexp(0)
