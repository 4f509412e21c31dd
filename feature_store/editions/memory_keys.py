"""How the recommender's own representation becomes a key of the error memory, and its score a
probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.compiled import compiler, prefetch_row
from feature_store.pacing import Pause, no_pause

FloatArray = NDArray[np.float32]
# Sums may be reordered, so that they use the machine's vectors.
compiled = compiler(Path(__file__).parent, fastmath={"reassoc", "contract", "nsz"})

D_PART = 24
_ROOT_HALF = np.float32(0.5**0.5)
_BLOCK = 4_096  # so many items are projected at once
_AHEAD = 4  # so many items ahead are sent for
_SEED = 20_230
# What a best-ranked item is expected to be worth before any outcome is known.
_FIRST_GUESS = 0.1


class MemoryKeys:
    """Keys of (user, item) pairs: the pair's interaction and the item, each of length 1/√2.

        key(u, z) = [n(Pu ⊙ Pz), n(Pz)] / √2

    with P a fixed random projection (Johnson and Lindenstrauss, 1984): equal vectors give equal
    keys, and near ones near keys, on every replica.
    """

    def __init__(self, item_vectors: FloatArray, *, pause: Pause = no_pause) -> None:
        """`item_vectors`: (n_items, d); `pause` is called between blocks of them."""
        n, d = item_vectors.shape
        projection = np.random.default_rng(_SEED).standard_normal((d, D_PART)) / np.sqrt(d)
        self._projection = projection.astype(np.float32)
        self._items = np.empty((n, D_PART), np.float32)
        self._own = np.empty((n, D_PART), np.float32)
        for start in range(0, n, _BLOCK):
            here = slice(start, start + _BLOCK)
            np.matmul(item_vectors[here], self._projection, out=self._items[here])
            self._own[here] = _unit(self._items[here])
            pause()
        # Compiled now, so that no request waits for it.
        self(np.zeros(d, np.float32), np.arange(min(n, 1)))

    def followed_by(self, item_vectors: FloatArray) -> MemoryKeys:
        """These, and behind them the items of `item_vectors` (m, d)."""
        behind = MemoryKeys(item_vectors)
        behind._items = np.concatenate([self._items, behind._items])
        behind._own = np.concatenate([self._own, behind._own])
        return behind

    @property
    def d(self) -> int:
        """Width of a key."""
        return 2 * D_PART

    def __call__(self, users: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
        """(n, 2p) keys of n pairs: users' vectors (n, d) with the items `rows` (n,).

        One user's vector (d,) goes with all rows.
        """
        projected = np.atleast_2d(users) @ self._projection
        lists = np.arange(len(rows)) if users.ndim == 2 else np.zeros(len(rows), np.int64)
        return self._of(projected, lists, rows)

    def of_lists(
        self, users: FloatArray, lists: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> FloatArray:
        """(n, 2p) keys of the items `rows` (n,) with the user of the list that each is in:
        `users` (L, d), `lists` (n,)."""
        return self._of(users @ self._projection, lists, rows)

    def _of(
        self, projected: FloatArray, lists: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> FloatArray:
        keys = np.empty((len(rows), self.d), np.float32)
        _fill(projected, lists, self._items, self._own, rows, keys)
        return keys

    def rows(self, keys: FloatArray) -> NDArray[np.int64]:
        """(n,) the items whose own half the keys (n, 2p) end with."""
        found: NDArray[np.int64] = (keys[:, D_PART:] @ self._own.T).argmax(axis=1)
        return found


@compiled
def _fill(
    projected: FloatArray,
    lists: NDArray[np.int64],
    items: FloatArray,
    own: FloatArray,
    rows: NDArray[np.int64],
    keys: FloatArray,
) -> None:
    """Fill `keys` (n, 2p) of the users `projected[lists]` with the items `rows`, whose projections
    are `items` (n_items, p), and of unit length `own`."""
    p = items.shape[1]
    for at in range(len(rows)):
        if at + _AHEAD < len(rows):
            prefetch_row(items, rows[at + _AHEAD])
            prefetch_row(own, rows[at + _AHEAD])
        user, row = lists[at], rows[at]
        squares = np.float32(0)
        for k in range(p):
            keys[at, k] = projected[user, k] * items[row, k]
            squares += keys[at, k] * keys[at, k]
        scale = _ROOT_HALF / max(np.sqrt(squares), np.float32(1e-12))
        for k in range(p):
            keys[at, k] *= scale
            keys[at, p + k] = own[row, k] * _ROOT_HALF


def probabilities(scores: FloatArray, best: FloatArray) -> FloatArray:
    """(n, 1): what scores (n,) say, each relative to the best one of its answer (n,).

    The softmax that the towers were trained with gives ratios; the first guess gives them a level.
    The memory corrects the level as soon as it is seen to be wrong.
    """
    logits = scores - best + np.log(_FIRST_GUESS / (1 - _FIRST_GUESS))
    p: FloatArray = (1 / (1 + np.exp(-np.clip(logits, -12, 12)))).astype(np.float32)
    return p[:, None]


def offsets(corrected: FloatArray, predicted: FloatArray) -> FloatArray:
    """(n,) what a correction of probabilities (n, 1) is worth in scores."""
    moved: FloatArray = (_logit(corrected) - _logit(predicted))[:, 0].astype(np.float32)
    return moved


def _logit(p: FloatArray) -> NDArray[np.float64]:
    safe = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6)
    logits: NDArray[np.float64] = np.log(safe / (1 - safe))
    return logits


def _unit(x: FloatArray) -> FloatArray:
    unit: FloatArray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit
