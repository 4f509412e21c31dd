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
def code_of(margins: FloatArray) -> int:
    """A bit per hyperplane: whether the key, at these signed distances, lies on its upper side."""
    code = np.uint64(0)
    for bit in range(margins.shape[0]):
        code |= np.uint64(margins[bit] > 0) << np.uint64(bit)
    return code  # type: ignore[return-value]


@compiled
def bucket_of(code: int, n_buckets: int) -> int:
    """A bucket for `code`; `n_buckets` is a power of two."""
    mixed = np.uint64(code) * _MIX
    mixed ^= mixed >> np.uint64(29)
    return np.int64(mixed & np.uint64(n_buckets - 1))  # type: ignore[return-value]
