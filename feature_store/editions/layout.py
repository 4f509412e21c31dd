"""Points of a high-dimensional space on a sheet of paper, so that neighbours stay neighbours.

UMAP (McInnes, Healy and Melville 2018, https://arxiv.org/abs/1802.03426): each point is joined to
its nearest ones with weights that fall with the distance, as measured in the density around it;
then, from the two principal components on, points that are joined attract each other, in
proportion to the weight, and strangers repel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.compiled import compiler

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
compiled = compiler(Path(__file__).parent)

_NEIGHBOURS = 8
_STRANGERS = 5
_EPOCHS = 500
# UMAP's curve 1 / (1 + a d^(2b)) for min_dist 0.1.
_A, _B = 1.577, 0.8951
_STEP_LIMIT = 4.0
_BLOCK = 1_024
_BISECTIONS = 40


def lay_out(unit: FloatArray, *, seed: int) -> FloatArray:
    """(m, 2) float32 in [0, 1] for m ≥ 3 unit vectors (m, d); the same for the same seed."""
    joined = neighbourhoods(unit, min(_NEIGHBOURS, len(unit) - 1))
    xy = principal(unit).astype(np.float64)
    strength = joined.data.astype(np.float64)
    _descend(
        xy,
        joined.row.astype(np.int64),
        joined.col.astype(np.int64),
        strength / strength.max(),
        _EPOCHS,
        seed,
    )
    low, high = np.quantile(xy, 0.005, axis=0), np.quantile(xy, 0.995, axis=0)
    scaled = (xy - low) / np.maximum(high - low, 1e-6)
    inside: FloatArray = np.clip(0.02 + 0.96 * scaled, 0, 1).astype(np.float32)
    return inside


def neighbourhoods(unit: FloatArray, k: int) -> sp.coo_matrix:
    """(m, m) how strongly points are joined: the fuzzy union of both sides' views."""
    near = nearest(unit, unit, k, skip_self=True)
    cosine = np.einsum("md,mkd->mk", unit, unit[near])
    distance = np.sqrt(np.maximum(2 - 2 * cosine, 0)).astype(np.float64)
    beyond = distance - distance.min(1, keepdims=True)
    low, high = np.zeros((len(unit), 1)), np.full((len(unit), 1), 1e3)
    for _ in range(_BISECTIONS):  # the width at which a point has log2(k) neighbours
        width = (low + high) / 2
        many = np.exp(-beyond / np.maximum(width, 1e-9)).sum(1, keepdims=True) > np.log2(k + 1)
        high, low = np.where(many, width, high), np.where(many, low, width)
    weight = np.exp(-beyond / np.maximum(width, 1e-9))
    begins = np.arange(0, near.size + 1, k)
    seen = sp.csr_matrix((weight.ravel(), near.ravel(), begins), shape=(len(unit), len(unit)))
    back = seen.T.tocsr()
    return (seen + back - seen.multiply(back)).tocoo()


def nearest(unit: FloatArray, others: FloatArray, k: int, *, skip_self: bool = False) -> IntArray:
    """(n, k) which of the others have the greatest cosine, in no order."""
    found = np.empty((len(unit), k), np.int64)
    for begin in range(0, len(unit), _BLOCK):
        cosine = unit[begin : begin + _BLOCK] @ others.T
        if skip_self:
            rows = np.arange(len(cosine))
            cosine[rows, begin + rows] = -np.inf
        found[begin : begin + _BLOCK] = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    return found


def principal(unit: FloatArray) -> FloatArray:
    """(m, 2) the first two principal components, ten units wide."""
    centred = unit - unit.mean(0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    first = axes[:, -2:][:, ::-1]
    if first.shape[1] < 2:
        first = np.concatenate([first, np.zeros_like(first)], axis=1)
    first = first * np.where(first[np.abs(first).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    xy: FloatArray = (centred @ first).astype(np.float32)
    return 10 * xy / max(float(np.abs(xy).max()), 1e-6)


@compiled
def _descend(
    xy: NDArray[np.float64],
    heads: IntArray,
    tails: IntArray,
    often: NDArray[np.float64],
    epochs: int,
    seed: int,
) -> None:
    """Move the points; a pair's turn comes in a share `often` of the epochs."""
    np.random.seed(seed)
    n = xy.shape[0]
    due = np.zeros(len(often))
    for epoch in range(epochs):
        step = 1.0 - epoch / epochs
        for pair in range(len(often)):
            due[pair] += often[pair]
            if due[pair] < 1.0:
                continue
            due[pair] -= 1.0
            head, tail = heads[pair], tails[pair]
            dx, dy = xy[head, 0] - xy[tail, 0], xy[head, 1] - xy[tail, 1]
            d2 = dx * dx + dy * dy
            if d2 > 0.0:
                pull = -2 * _A * _B * d2 ** (_B - 1) / (1 + _A * d2**_B)
                dx, dy = _limited(pull * dx) * step, _limited(pull * dy) * step
                xy[head, 0] += dx
                xy[head, 1] += dy
                xy[tail, 0] -= dx
                xy[tail, 1] -= dy
            for _ in range(_STRANGERS):
                stranger = np.random.randint(n)
                if stranger == head:
                    continue
                dx, dy = xy[head, 0] - xy[stranger, 0], xy[head, 1] - xy[stranger, 1]
                d2 = dx * dx + dy * dy
                push = 2 * _B / ((1e-3 + d2) * (1 + _A * d2**_B))
                xy[head, 0] += _limited(push * dx) * step
                xy[head, 1] += _limited(push * dy) * step


@compiled
def _limited(move: float) -> float:
    return min(max(move, -_STEP_LIMIT), _STEP_LIMIT)
