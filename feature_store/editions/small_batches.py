"""The user tower for small batches on a processor: the same equations without a framework.

A dozen operations of torch or numpy on one user cost more in dispatch than in arithmetic; one
compiled pass reads a history, and two matrix products are left.
`models/recommender/user_tower.py` is the reference, and what training uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.compiled import compiler, prefetch_row
from feature_store.interactions.history_rows import SparseRows
from models.recommender.user_tower import UserTower

FloatArray = NDArray[np.float32]
# Sums may be reordered, so that they use the machine's vectors.
compiled = compiler(Path(__file__).parent, fastmath={"reassoc", "contract", "nsz"})
_AHEAD = 4  # so many items of a history ahead are their vectors sent for
_EPSILON = 1e-12  # as torch's normalize
_ROOT_HALF = np.float32(0.5**0.5)


@dataclass(frozen=True)
class SmallBatchTower:
    """A user tower's weights as arrays.

    Attributes:
        layers: weight (d_out, d_in) and bias (d_out,) of the learned term's two layers, or None.
    """

    n_types: int
    layers: tuple[FloatArray, FloatArray, FloatArray, FloatArray] | None

    @classmethod
    def of(cls, tower: UserTower) -> SmallBatchTower:
        """The same tower; later changes of its weights are not seen."""
        if tower.residual is None:
            return cls(tower.n_types, None)
        weights = [each.detach().cpu().numpy().copy() for each in tower.residual.parameters()]
        return cls(tower.n_types, (weights[0], weights[1], weights[2], weights[3]))

    def __call__(
        self,
        histories: SparseRows,
        features: FloatArray,
        vectors: FloatArray,
        types: NDArray[np.int64],
    ) -> FloatArray:
        """(B, d) unit rows, zero for a user of whom nothing is known.

        Args:
            histories: (B, n_items) float32 weights.
            features: (B, F) float32.
            vectors: (n_items, d) history vectors.
            types: (n_items,) position of each item's type.
        """
        n_users, d = histories.shape[0], vectors.shape[1]
        user = np.empty((n_users, d), np.float32)
        known = np.empty((n_users, self.n_types * (d + 1) + features.shape[1]), np.float32)
        known[:, self.n_types * (d + 1) :] = features
        flat = (histories.indptr, histories.indices, histories.data)
        _read_histories(flat, vectors, types, self.n_types, user, known)
        if self.layers is None:
            return user
        first, first_bias, last, last_bias = self.layers
        hidden = known @ first.T
        _activate(hidden, first_bias)
        moved: FloatArray = hidden @ last.T
        _move(user, moved, last_bias)
        return user


@compiled
def _read_histories(
    histories: tuple[NDArray[np.int32], NDArray[np.int32], FloatArray],
    vectors: FloatArray,
    types: NDArray[np.int64],
    n_types: int,
    user: FloatArray,
    known: FloatArray,
) -> None:
    """Fill `user` (B, d) with n(Σ_t g_t), and of `known` (B, ≥ T·d + T) what histories say:
    n(g_1) … n(g_T) and log(1 + count_t) / 3."""
    indptr, indices, weights = histories
    n_users, d = user.shape
    counts = np.empty(n_types, np.int64)
    for b in range(n_users):
        user[b] = 0.0
        known[b, : n_types * d] = 0.0
        counts[:] = 0
        for e in range(indptr[b], indptr[b + 1]):
            if e + _AHEAD < len(indices):
                prefetch_row(vectors, indices[e + _AHEAD])
            row, weight = indices[e], weights[e]
            at = types[row] * d
            counts[types[row]] += 1
            for k in range(d):
                known[b, at + k] += weight * vectors[row, k]
        for t in range(n_types):
            known[b, n_types * d + t] = np.log1p(np.float32(counts[t])) / np.float32(3)
            if counts[t]:
                for k in range(d):
                    user[b, k] += known[b, t * d + k]
                _to_unit(known[b, t * d : (t + 1) * d])
        _to_unit(user[b])


@compiled
def _activate(hidden: FloatArray, bias: FloatArray) -> None:
    """GELU of hidden + bias, in place."""
    for b in range(len(hidden)):
        for k in range(len(bias)):
            x = hidden[b, k] + bias[k]
            hidden[b, k] = x * np.float32(0.5) * (np.float32(1) + math.erf(x * _ROOT_HALF))


@compiled
def _move(user: FloatArray, moved: FloatArray, bias: FloatArray) -> None:
    """The unit vector of user + moved + bias, in place of `user`."""
    for b in range(len(user)):
        for k in range(len(bias)):
            user[b, k] += moved[b, k] + bias[k]
        _to_unit(user[b])


@compiled
def _to_unit(x: FloatArray) -> None:
    """Divide a vector by its length."""
    squares = np.float32(0)
    for k in range(len(x)):
        squares += x[k] * x[k]
    length = max(np.sqrt(squares), np.float32(_EPSILON))
    for k in range(len(x)):
        x[k] /= length
