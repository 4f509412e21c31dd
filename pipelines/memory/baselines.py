"""Other ways to follow a stream, under the same delays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.memory.prequential import BATCH, Schedule, batches
from pipelines.memory.stream import Stream

FloatArray = NDArray[np.float32]


def exact_knn(
    stream: Stream,
    *,
    delay: int = BATCH,
    window: int = 4096,
    beta: float = 1000.0,
    prior: float = 0.05,
    schedule: Schedule | None = None,
) -> FloatArray:
    """Kernel-weighted mean label of the newest `window` labels, all of them looked at; `prior` is
    the kernel weight of the base's own prediction. For `schedule` see `replay`."""
    out = stream.predictions.copy()
    squares = (stream.keys**2).sum(1)
    rows = np.arange(len(stream))
    old = rows[:0]
    for arrived, now in schedule or batches(len(stream), delay=delay):
        old = np.concatenate([old, rows[arrived]])[-window:]
        if not len(old):
            continue
        query = stream.keys[now]
        distance = squares[now, None] + squares[None, old] - 2 * query @ stream.keys[old].T
        weight = np.exp(-beta * np.maximum(distance, 0))
        total = weight.sum(1, keepdims=True) + prior
        out[now] = (weight @ stream.labels[old] + prior * stream.predictions[now]) / total
    return out


def incremental(
    stream: Stream,
    network: nn.Module,
    *,
    delay: int = BATCH,
    learning_rate: float,
    batch: int = BATCH,
    remember: Callable[[slice | NDArray[np.int64]], torch.Tensor] | None = None,
    schedule: Schedule | None = None,
) -> FloatArray:
    """Adam, one step per arrived batch, predict before learning.

    Args:
        stream: its inputs go through `network`, which is trained in place.
        network: logits (n, C) of the inputs.
        delay: see `batches`.
        learning_rate: of Adam.
        batch: events per step.
        remember: inputs of some events, where the network does not take `stream.inputs`.
        schedule: in place of what `delay` and `batch` say; see `replay`.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    inputs = torch.from_numpy(stream.inputs)
    labels = torch.from_numpy(stream.labels)
    give = remember or (lambda rows: inputs[rows])
    out = np.empty_like(stream.predictions)
    for arrived, now in schedule or batches(len(stream), delay=delay, batch=batch):
        known = labels[arrived]
        if len(known):
            loss = _loss(network(give(arrived)), known)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.inference_mode():
            logits = network(give(now))
            out[now] = (logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()).numpy()
    return out


def popularity_counter(
    items: NDArray[np.int64],
    labels: NDArray[np.float32],
    *,
    delay: int,
    half_life: float = 5_000.0,
    smoothing: float = 2.0,
) -> FloatArray:
    """(n, 1) score: how often the item was taken lately, as a share of what was shown of it.

    Counts fade with a half-life in events. The mean label is the prior of an unknown item.
    """
    n = len(items)
    shown = np.zeros(items.max() + 1)
    taken = np.zeros(items.max() + 1)
    updated = np.zeros(items.max() + 1)
    out = np.empty((n, 1), np.float32)
    rate = np.log(2) / half_life
    mean, seen = 0.5, 0
    for arrived, now in batches(n, delay=delay):
        rows, values = items[arrived], labels[arrived].ravel()
        if len(rows):
            touched = np.unique(rows)
            fade = np.exp(-rate * (arrived.stop - updated[touched]))
            shown[touched] *= fade
            taken[touched] *= fade
            updated[touched] = arrived.stop
            np.add.at(shown, rows, 1.0)
            np.add.at(taken, rows, values)
            mean = (mean * seen + values.sum()) / (seen + len(rows))
            seen += len(rows)
        each = items[now]
        fade = np.exp(-rate * (arrived.stop - updated[each]))
        out[now, 0] = (taken[each] * fade + smoothing * mean) / (shown[each] * fade + smoothing)
    return out


def adaptive_random_forest(
    stream: Stream, *, delay: int, seed: int, n_models: int = 5
) -> FloatArray:
    """river's ARF on the inputs, blended with nothing: it starts empty.

    Raises:
        ImportError: river is not installed (the `bench` extra).
    """
    from river import forest

    model = forest.ARFClassifier(n_models=n_models, seed=seed)
    n_classes = stream.n_classes
    names = list(range(stream.inputs.shape[1]))
    labels = stream.labels.argmax(1)
    out = np.full_like(stream.predictions, 1.0 / n_classes)
    for arrived, now in batches(len(stream), delay=delay):
        for row in range(arrived.start, arrived.stop):
            features = dict(zip(names, stream.inputs[row].tolist(), strict=True))
            model.learn_one(features, int(labels[row]))
        for row in range(now.start, now.stop):
            features = dict(zip(names, stream.inputs[row].tolist(), strict=True))
            for label, probability in model.predict_proba_one(features).items():
                out[row, int(label)] = probability
    normalised: FloatArray = out / np.maximum(out.sum(1, keepdims=True), 1e-9)
    return normalised


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] > 1:
        return nn.functional.cross_entropy(logits, labels)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)
