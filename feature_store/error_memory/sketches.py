"""Sums of errors per SimHash bucket, fading with age: O(1) to read and to write.

ReLoop2 (KDD 2023) averages over `tables` hashes; with a half-life of infinity this is its memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import compiled
from feature_store.error_memory.hashing import bucket_of, code_of, hyperplanes
from feature_store.error_memory.lanes import products

FloatArray = NDArray[np.float32]


class SketchTable(NamedTuple):
    """T hashes of one sketch."""

    planes: FloatArray  # (d, T · bits)
    sums: FloatArray  # (T, N, 1 + 2C): Σ w, Σ w·label, Σ w·prediction, as of `updated`
    updated: NDArray[np.int64]  # (T, N) number of the write
    rate: float  # ln 2 / half-life, 0 without decay


def empty_sketch(
    *, tables: int, bits: int, half_life: float | None, d: int, n_classes: int, seed: int
) -> SketchTable:
    """A sketch without entries."""
    return SketchTable(
        planes=np.ascontiguousarray(hyperplanes(tables * bits, d, seed=seed).T),
        sums=np.zeros((tables, 2**bits, 1 + 2 * n_classes), np.float32),
        updated=np.zeros((tables, 2**bits), np.int64),
        rate=0.0 if half_life is None else float(np.log(2) / half_life),
    )


@compiled
def write_sketch(
    table: SketchTable,
    key: FloatArray,
    label: FloatArray,
    prediction: FloatArray,
    weight: float,
    number: int,
    margins: FloatArray,
) -> None:
    """Add one entry to its bucket of every hash."""
    n_classes, (tables, n_buckets) = label.shape[0], table.updated.shape
    products(key, table.planes, margins)
    bits = margins.shape[0] // tables
    for t in range(tables):
        bucket = bucket_of(code_of(margins[t * bits : (t + 1) * bits]), n_buckets)
        age = np.float32(number - table.updated[t, bucket])
        kept = np.float32(np.exp(-np.float32(table.rate) * age))
        table.updated[t, bucket] = number
        sums = table.sums[t, bucket]
        sums[0] = sums[0] * kept + weight
        for c in range(n_classes):
            sums[1 + c] = sums[1 + c] * kept + weight * label[c]
            sums[1 + n_classes + c] = sums[1 + n_classes + c] * kept + weight * prediction[c]


@compiled
def sum_sketch(
    table: SketchTable, key: FloatArray, now: int, margins: FloatArray, out: FloatArray
) -> None:
    """Add to `out` (1 + 2C,) the sums of the key's bucket, averaged over the hashes."""
    tables, n_buckets = table.updated.shape
    products(key, table.planes, margins)
    bits = margins.shape[0] // tables
    for t in range(tables):
        bucket = bucket_of(code_of(margins[t * bits : (t + 1) * bits]), n_buckets)
        age = np.float32(now - table.updated[t, bucket])
        kept = np.float32(np.exp(-np.float32(table.rate) * age)) / np.float32(tables)
        for i in range(out.shape[0]):
            out[i] += kept * table.sums[t, bucket, i]
