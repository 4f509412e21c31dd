"""Predict, then learn: a stream through a memory whose labels come late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory import ErrorBatch, ErrorMemory, MemoryPolicy
from pipelines.memory.stream import Stream

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BATCH = 256
# Steps of (events whose labels arrive now, events to predict next).
Schedule = Iterable[tuple[slice | IntArray, slice]]


@dataclass(frozen=True)
class Replay:
    """What came out.

    Attributes:
        corrected: (n, C) float32.
        memory: as it was at the end.
        closed: share of the batches that met a closed gate.
    """

    corrected: FloatArray
    memory: ErrorMemory
    closed: float


def batches(n: int, *, delay: int, batch: int = BATCH) -> Iterator[tuple[slice, slice]]:
    """(events whose labels arrive now, events to predict next), so that an event's label arrives
    `delay` events after it at the latest prediction that may use it; the smallest delay is a
    batch."""
    known = 0
    for start in range(0, n, batch):
        arrived = max(known, start - max(delay - batch, 0))
        yield slice(known, arrived), slice(start, min(start + batch, n))
        known = arrived


def by_the_clock(
    time_s: NDArray[np.float64], labelled: NDArray[np.bool_], *, delay_s: float
) -> Iterator[tuple[IntArray, slice]]:
    """The schedule of labels that come `delay_s` after their events, where they come at all.

    Args:
        time_s: (n,) of the events, not falling.
        labelled: (n,) whose label ever comes.
    """
    rows = np.flatnonzero(labelled)
    known = np.searchsorted(time_s[rows] + delay_s, time_s, side="right")
    starts = np.flatnonzero(np.diff(known, prepend=-1))
    before = 0
    for start, stop in zip(starts, [*starts[1:], len(time_s)], strict=True):
        yield rows[before : known[start]], slice(int(start), int(stop))
        before = known[start]


def replay(
    stream: Stream,
    policy: MemoryPolicy,
    *,
    delay: int = BATCH,
    batch: int = BATCH,
    memory: ErrorMemory | None = None,
    schedule: Schedule | None = None,
) -> Replay:
    """Run `stream` through `memory`, or an empty one, as `schedule` says, or `batches`."""
    n, n_classes = stream.labels.shape
    if memory is None:
        memory = ErrorMemory(policy, d=stream.keys.shape[1], n_classes=n_classes)
    corrected = np.empty((n, n_classes), np.float32)
    losses = np.empty((n, policy.n_experts + 1), np.float32)
    contexts = np.zeros(n, np.int64)
    closed = total = 0
    for arrived, now in schedule or batches(n, delay=delay, batch=batch):
        keys = stream.keys[arrived]
        if len(keys):
            memory.write(
                ErrorBatch.of(
                    keys,
                    stream.labels[arrived],
                    stream.predictions[arrived],
                    losses=losses[arrived],
                    contexts=contexts[arrived],
                    sources=stream.groups[arrived].astype(np.uint64),
                )
            )
        reading = memory.read(stream.keys[now], stream.predictions[now])
        corrected[now], contexts[now] = reading.corrected, reading.contexts
        losses[now] = reading.losses(stream.labels[now])
        closed += not reading.gate_open
        total += 1
    return Replay(corrected, memory, closed / max(total, 1))
