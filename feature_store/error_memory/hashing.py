"""SimHash: which side of each random hyperplane a key lies on (Charikar, 2002)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import compiled

FloatArray = NDArray[np.float32]
_MIX = np.uint64(0x9E3779B97F4A7C15)


def hyperplanes(n: int, d: int, *, seed: int) -> FloatArray:
    """(n, d) float32 normals; the same for the same seed on every replica."""
    normals: FloatArray = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return normals


def source_id(name: str) -> int:
    """A stable 64-bit name for a source, or for the id of a feedback."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@compiled
def signs(key: FloatArray, planes: FloatArray, margins: FloatArray) -> int:
    """The code of `key`, a bit per plane; the signed distances go to `margins`."""
    code = np.uint64(0)
    for bit in range(planes.shape[0]):
        dot = np.float32(0.0)
        for j in range(key.shape[0]):
            dot += key[j] * planes[bit, j]
        margins[bit] = dot
        if dot > 0:
            code |= np.uint64(1) << np.uint64(bit)
    return code  # type: ignore[return-value]


@compiled
def bucket_of(code: int, n_buckets: int) -> int:
    """A bucket for `code`; `n_buckets` is a power of two."""
    mixed = np.uint64(code) * _MIX
    mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed & np.uint64(n_buckets - 1))  # type: ignore[return-value]
