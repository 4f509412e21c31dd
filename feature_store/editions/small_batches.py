"""The user tower for small batches on a processor: the same equations without a framework.

A dozen tensor operations on one user cost more in dispatch than in arithmetic, and each gives the
interpreter away. `models/recommender/user_tower.py` is the reference, and what training uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import erf

from models.recommender.user_tower import UserTower

FloatArray = NDArray[np.float32]
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
        histories: sp.csr_matrix,
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
        sums = np.zeros((n_users * self.n_types, d), np.float32)
        counts = np.zeros(n_users * self.n_types, np.float32)
        rows = histories.indices
        if len(rows):
            users = np.repeat(np.arange(n_users), np.diff(histories.indptr))
            bags = users * self.n_types + types[rows]
            order = np.argsort(bags, kind="stable")
            weighted = vectors[rows[order]] * histories.data[order, None]  # (E, d)
            bags = bags[order]
            starts = np.flatnonzero(np.diff(bags, prepend=-1))
            sums[bags[starts]] = np.add.reduceat(weighted, starts, axis=0)
            counts[bags[starts]] = np.diff(starts, append=len(bags))
        per_type = sums.reshape(n_users, self.n_types, d)
        user = _unit(per_type.sum(1))
        if self.layers is None:
            return user
        groups = _unit(per_type).reshape(n_users, -1)  # (B, T·d)
        logs = np.log1p(counts).reshape(n_users, self.n_types) / np.float32(3)
        known = np.concatenate([groups, logs, features], axis=1)
        first, first_bias, last, last_bias = self.layers
        hidden = known @ first.T + first_bias
        hidden *= 0.5 * (1 + erf(hidden * _ROOT_HALF))  # GELU
        moved: FloatArray = (user + (hidden @ last.T + last_bias)).astype(np.float32)
        return _unit(moved)


def _unit(x: FloatArray) -> FloatArray:
    lengths = np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    unit: FloatArray = x / np.maximum(lengths, np.float32(_EPSILON))
    return unit
