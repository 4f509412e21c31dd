"""The most consumed items, for everybody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class Popularity:
    """Score = number of users that consumed the item.

    Shapes: `counts` (N,) float32, exact up to 2²⁴ users.
    """

    counts: NDArray[np.float32]
    name: str = "popularity"

    @classmethod
    def fit(cls, interactions: csr_matrix) -> Popularity:
        """Count users per item. Shapes: `interactions` (U, N)."""
        counts = np.bincount(interactions.indices, minlength=interactions.shape[1])
        return cls(counts=counts.astype(np.float32))

    def scores(self, history: csr_matrix, user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The same counts for every case: (B, N), a read-only view."""
        if history.shape[1] != len(self.counts):
            raise ValueError(f"history of {history.shape[1]} items, fitted on {len(self.counts)}")
        return np.broadcast_to(self.counts, (len(user_rows), len(self.counts)))
