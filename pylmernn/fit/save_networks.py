"""Networks in the file of a fit: weights as arrays, all else as JSON-able data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pylmernn.mean.embedding import Embedding
from pylmernn.mean.networks import NetSpec, Networks

if TYPE_CHECKING:
    from pylmernn.fit.save import Parts


def put_networks(parts: Parts, networks: Networks) -> dict[str, Any]:
    """Keep the arrays of networks under "networks."; returns the rest as JSON-able data."""
    parts.put("networks.fitted", networks.fitted)
    parts.put("networks.numbers", np.append(networks.scale, networks.shift))
    if networks.learned is not None:
        parts.put("networks.learned", np.packbits(networks.learned, axis=1))
    for i, member in enumerate(networks.members):
        for k, weights in enumerate(member):
            for name, value in weights.items():
                parts.put(f"networks.{i}.{k}.{name}", value)
    return {
        "specs": [_spec_state(spec) for spec in networks.specs],
        "weights": [[list(weights) for weights in member] for member in networks.members],
        "history": networks.history,
        "best_epoch": networks.best_epoch,
        "out_of_fold": networks.out_of_fold,
        "criterion": networks.criterion,
        "embeddings": [_put_embedding(parts, k, embedding) for k, embedding in enumerate(networks.embeddings)],
    }


def _put_embedding(parts: Parts, k: int, embedding: Embedding | None) -> dict[str, Any] | None:
    if embedding is None:
        return None
    for name, value in embedding.weights.items():
        parts.put(f"networks.embedding.{k}.{name}", value)
    fields = {f.name: getattr(embedding, f.name) for f in dataclasses.fields(embedding) if f.name != "weights"}
    return {**fields, "weights": list(embedding.weights)}


def _get_embedding(parts: Parts, k: int, meta: dict[str, Any] | None) -> Embedding | None:
    if meta is None:
        return None
    weights = {name: parts.arrays[f"networks.embedding.{k}.{name}"] for name in meta["weights"]}
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in meta.items()}
    return Embedding(**{**given, "weights": weights})


def get_networks(parts: Parts, meta: dict[str, Any]) -> Networks:
    """Networks that :func:`put_networks` kept."""
    scale, *shift = parts.arrays["networks.numbers"].tolist()
    fitted, learned = parts.arrays["networks.fitted"], parts.arrays.get("networks.learned")
    return Networks(
        specs=tuple(_spec(spec) for spec in meta["specs"]),
        members=tuple(
            tuple({name: parts.arrays[f"networks.{i}.{k}.{name}"] for name in names} for k, names in enumerate(member))
            for i, member in enumerate(meta["weights"])
        ),
        scale=scale,
        shift=shift[0] if len(shift) == 1 else tuple(shift),
        fitted=fitted,
        history=meta["history"],
        best_epoch=tuple(meta["best_epoch"]),
        out_of_fold=meta["out_of_fold"],
        learned=None if learned is None else np.unpackbits(learned, axis=1, count=len(fitted)).astype(bool),
        criterion=meta.get("criterion", "mean squared error"),
        embeddings=tuple(_get_embedding(parts, k, one) for k, one in enumerate(meta.get("embeddings", []))),
    )


def _spec_state(spec: NetSpec) -> dict[str, Any]:
    """All but the user's module, which is code."""
    return {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "module"}


def _spec(meta: dict[str, Any]) -> NetSpec:
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in meta.items()}
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in meta["options"].items()}
    return NetSpec(**{**given, "options": options, "shapes": tuple(tuple(shape) for shape in meta["shapes"])})
