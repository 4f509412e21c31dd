"""What a version's error memory makes of its answers: the same online and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.memory_keys import MemoryKeys, offsets, probabilities
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.reading import Reading
from feature_store.error_memory.replica import MemoryReplica

FloatArray = NDArray[np.float32]

# The correction reaches this far down a list; below, an item would need more than it can gain.
CORRECTED = 256
# Columns behind the edition's own, for classes that labels bring.
NEW_CLASSES = 16


def list_offsets(
    replica: MemoryReplica,
    keys: MemoryKeys,
    users: FloatArray,
    rows: NDArray[np.int64],
    scores: FloatArray,
) -> FloatArray | None:
    """What to add to the scores of lists; None where the memory leaves the model alone.

    Shapes:
        users: (B, d) vectors; rows: (B, n) items, best first, -1 where there is none
        scores: (B, n), -inf where there is no item; returns: (B, n)
    """
    if not replica.memory.speaks:
        return None
    head, known = rows[:, :CORRECTED], scores[:, :CORRECTED]
    # Contiguous: a kernel would be compiled once more for others, while a request waits.
    lists, places = map(np.ascontiguousarray, np.nonzero(head >= 0))
    if len(lists) == 0:
        return None
    found = head[lists, places]
    predicted = probabilities(known[lists, places], known.max(1)[lists])
    reading = replica.read(keys.of_lists(users, lists, found), predicted)
    if not reading.gate_open:
        return None
    moved = np.zeros_like(scores)
    moved[lists, places] = offsets(reading.corrected, predicted)
    return moved


def corrected_classes(
    replica: MemoryReplica, keys: FloatArray, own: FloatArray
) -> tuple[FloatArray, Reading]:
    """(n, classes + `NEW_CLASSES`) probabilities, rows summing to 1, from the edition's own (n,
    classes), and the reading that they are from."""
    predicted = np.zeros((len(own), own.shape[1] + NEW_CLASSES), np.float32)
    predicted[:, : own.shape[1]] = own
    reading = replica.read(keys, predicted)
    corrected = np.maximum(reading.corrected, 0)
    corrected = corrected / np.maximum(corrected.sum(axis=1, keepdims=True), 1e-9)
    return corrected.astype(np.float32), reading


def new_classes_key(log: MemoryLog) -> str:
    """Of the hash in Redis: column → name."""
    return f"{log.key}:classes"


def new_classes(log: MemoryLog) -> tuple[str, ...]:
    """Names that labels brought, in the order of their columns.

    Raises:
        redis.RedisError: the server is gone.
    """
    found: Any = log.client.hgetall(new_classes_key(log))
    return tuple(name for _, name in sorted((int(c), name.decode()) for name, c in found.items()))


def class_names(own: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the columns of `corrected_classes`."""
    spare = (f"new class {k + 1}" for k in range(len(new), NEW_CLASSES))
    return (*own, *new, *spare)
