"""Entries as bytes: what one `XADD` carries.

    header   b"EM1", experts (uint16), d, C (uint32), little-endian
    record   time_ms int64, source, feedback id uint64, weight float32, context uint16,
             key d × float16, label and prediction C × float32, losses (E + 1) × float16

Records are of one size, so that those of a batch can be filtered without being understood.
"""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.batch import ErrorBatch

_HEADER = struct.Struct("<3sHII")
_MAGIC = b"EM1"
_FLOAT16_MAX = 65_504.0


class CorruptEntryError(ValueError):
    """Bytes that are no entries of this memory."""


@cache
def record_type(*, d: int, n_classes: int, n_losses: int) -> np.dtype[np.void]:
    """The record as a numpy type."""
    return np.dtype(
        [
            ("time_ms", "<i8"),
            ("source", "<u8"),
            ("feedback_id", "<u8"),
            ("weight", "<f4"),
            ("context", "<u2"),
            ("key", "<f2", (d,)),
            ("label", "<f4", (n_classes,)),
            ("prediction", "<f4", (n_classes,)),
            ("losses", "<f2", (n_losses,)),
        ]
    )


def pack(batch: ErrorBatch) -> tuple[bytes, NDArray[np.void]]:
    """The header, and the records (n,)."""
    d, n_classes, n_losses = (
        batch.keys.shape[1],
        batch.labels.shape[1],
        batch.losses.shape[1],
    )
    records = np.empty(len(batch), record_type(d=d, n_classes=n_classes, n_losses=n_losses))
    records["time_ms"], records["source"] = batch.time_ms, batch.sources
    records["feedback_id"], records["weight"] = batch.feedback_ids, batch.weights
    records["context"] = batch.contexts
    records["key"] = np.clip(batch.keys, -_FLOAT16_MAX, _FLOAT16_MAX)
    records["label"], records["prediction"] = batch.labels, batch.predictions
    records["losses"] = np.minimum(batch.losses, _FLOAT16_MAX)
    return _HEADER.pack(_MAGIC, n_losses, d, n_classes), records


def unpack(payload: bytes) -> ErrorBatch:
    """Inverse of `pack`, for a header followed by records.

    Raises:
        CorruptEntryError: these are no entries.
    """
    if len(payload) < _HEADER.size:
        raise CorruptEntryError(f"{len(payload)} bytes are shorter than a header")
    magic, n_losses, d, n_classes = _HEADER.unpack_from(payload)
    if magic != _MAGIC:
        raise CorruptEntryError(f"entries begin with {_MAGIC!r}, not {magic!r}")
    kind = record_type(d=d, n_classes=n_classes, n_losses=n_losses)
    if (len(payload) - _HEADER.size) % kind.itemsize:
        raise CorruptEntryError(f"{len(payload)} bytes are no whole number of records")
    records = np.frombuffer(payload, kind, offset=_HEADER.size)
    return ErrorBatch(
        keys=records["key"].astype(np.float32),
        labels=np.array(records["label"], np.float32, order="C"),
        predictions=np.array(records["prediction"], np.float32, order="C"),
        losses=records["losses"].astype(np.float32),
        contexts=records["context"].astype(np.int64),
        weights=records["weight"].copy(),
        time_ms=records["time_ms"].copy(),
        sources=records["source"].copy(),
        feedback_ids=records["feedback_id"].copy(),
    )
