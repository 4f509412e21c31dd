"""The item space as a flat picture: who is near whom, for the eye.

Neighbours attract and random pairs repel, from the two principal components on: UMAP's objective
(McInnes, Healy and Melville 2018, https://arxiv.org/abs/1802.03426) with one sampled neighbour and
a few sampled strangers a point and epoch. The most popular items are the landmarks; any other item
lies among the landmarks that it is nearest to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

LANDMARKS = 4_000
_NEIGHBOURS = 12
_STRANGERS = 5
_EPOCHS = 300
# UMAP's curve 1 / (1 + a d^(2b)) for min_dist 0.1.
_A, _B = 1.577, 0.8951
_STEP_LIMIT = 4.0
_BLOCK = 1_024
# Places are looked for on a grid, smoothed by so many of its cells.
_GRID, _SMOOTHING = 32, 1.5
_FEWEST, _LEAST_LIFT = 8, 1.5


@dataclass(frozen=True)
class Place:
    """A word where, on the map, it is most typical."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class ItemMap:
    """Where the landmarks lie.

    Attributes:
        rows: (m,) of the catalogue, the most popular first.
        xy: (m, 2) float32 in [0, 1].
        vectors: (m, d) float32 unit vectors.
    """

    rows: IntArray
    xy: FloatArray
    vectors: FloatArray

    @classmethod
    def of(
        cls,
        vectors: FloatArray,
        popularity: FloatArray,
        *,
        landmarks: int = LANDMARKS,
        seed: int = 0,
    ) -> ItemMap:
        """Lay out items by their vectors (n, d); some seconds for `LANDMARKS` of them."""
        rows = np.argsort(-popularity, kind="stable")[:landmarks].astype(np.int64)
        unit = _unit(vectors[rows])
        if len(rows) <= 2:
            return cls(rows, np.full((len(rows), 2), 0.5, np.float32), unit)
        near = _nearest(unit, unit, min(_NEIGHBOURS, len(rows) - 1), skip_self=True)
        return cls(rows, _laid_out(_principal(unit), near, np.random.default_rng(seed)), unit)

    def place(self, vectors: FloatArray) -> FloatArray:
        """(k, 2) where items with these vectors (k, d) lie: amid their nearest landmarks."""
        if len(vectors) == 0 or len(self.rows) == 0:
            return np.full((len(vectors), 2), 0.5, np.float32)
        near = _nearest(_unit(vectors), self.vectors, min(3, len(self.rows)))
        placed: FloatArray = np.median(self.xy[near], axis=1).astype(np.float32)
        return placed

    def places(self, words: Sequence[Sequence[str]], *, most: int = 12) -> list[Place]:
        """The words that some part of the map has more of than the rest, each where it has most.

        Args:
            words: of each landmark.
            most: how many are returned, the most frequent first.
        """
        cells = np.minimum((self.xy * _GRID).astype(np.int64), _GRID - 1)
        where: dict[str, list[int]] = {}
        for number, each in enumerate(words):
            for word in each:
                where.setdefault(word, []).append(number)
        everything = _density(cells)
        found: list[Place] = []
        for word, members in sorted(where.items(), key=lambda pair: (-len(pair[1]), pair[0])):
            if len(members) < _FEWEST:
                break
            share = _density(cells[members]) / (everything + 1.0 / _GRID)
            best = np.unravel_index(int(share.argmax()), share.shape)
            lift = float(share[best]) * len(words) / len(members)
            if lift >= _LEAST_LIFT:
                x, y = ((float(cell) + 0.5) / _GRID for cell in best)
                if all(abs(x - o.x) > 0.14 or abs(y - o.y) > 0.04 for o in found):
                    found.append(Place(word, x, y))
            if len(found) == most:
                break
        return found


def _laid_out(xy: FloatArray, near: IntArray, rng: np.random.Generator) -> FloatArray:
    n, k = near.shape
    itself = np.arange(n)
    for epoch in range(_EPOCHS):
        step = 1.0 - epoch / _EPOCHS
        friend = near[itself, rng.integers(0, k, n)]
        apart = xy - xy[friend]
        d2 = (apart**2).sum(1, keepdims=True) + 1e-6
        pull = -2 * _A * _B * d2 ** (_B - 1) / (1 + _A * d2**_B)
        move = np.clip(pull * apart, -_STEP_LIMIT, _STEP_LIMIT)
        moved = move.copy()
        np.subtract.at(moved, friend, move)
        strangers = rng.integers(0, n, (n, _STRANGERS))
        apart = xy[:, None] - xy[strangers]
        d2 = (apart**2).sum(2, keepdims=True)
        push = 2 * _B / ((1e-2 + d2) * (1 + _A * d2**_B))
        moved += np.clip(push * apart, -_STEP_LIMIT, _STEP_LIMIT).sum(1)
        xy = (xy + step * moved).astype(np.float32)
    low, high = np.quantile(xy, 0.005, axis=0), np.quantile(xy, 0.995, axis=0)
    scaled: FloatArray = (xy - low) / np.maximum(high - low, 1e-6)
    inside: FloatArray = np.clip(0.02 + 0.96 * scaled, 0, 1).astype(np.float32)
    return inside


def _principal(unit: FloatArray) -> FloatArray:
    """(m, 2) the first two principal components, ten units wide."""
    centred = unit - unit.mean(0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    first = axes[:, -2:][:, ::-1]
    if first.shape[1] < 2:
        first = np.concatenate([first, np.zeros_like(first)], axis=1)
    first = first * np.where(first[np.abs(first).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    xy: FloatArray = (centred @ first).astype(np.float32)
    return 10 * xy / max(float(np.abs(xy).max()), 1e-6)


def _nearest(
    unit: FloatArray, landmarks: FloatArray, k: int, *, skip_self: bool = False
) -> IntArray:
    """(n, k) the landmarks with the greatest cosine, in no order."""
    found = np.empty((len(unit), k), np.int64)
    for begin in range(0, len(unit), _BLOCK):
        cosine = unit[begin : begin + _BLOCK] @ landmarks.T
        if skip_self:
            rows = np.arange(len(cosine))
            cosine[rows, begin + rows] = -np.inf
        found[begin : begin + _BLOCK] = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    return found


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _density(cells: IntArray) -> FloatArray:
    counts = np.zeros((_GRID, _GRID), np.float32)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1.0)
    smooth: FloatArray = gaussian_filter(counts, _SMOOTHING)
    return smooth
