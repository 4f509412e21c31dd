"""EASE where items outnumber users: the same scores from a matrix over users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from feature_store.interactions.dual_partial import DualPartial
from pipelines.recommender.baselines.ease import EASE


@dataclass(frozen=True, eq=False)
class DualEASE:
    """Score = history · B of `EASE`, exactly, without an (N, N) matrix. Memory: 4 U² bytes."""

    weights: DualPartial
    name: str = "ease"

    @classmethod
    def fit(
        cls,
        interactions: csr_matrix,
        *,
        regularisation: float = 500.0,
        precision: Literal["float32", "float64"] = "float64",
    ) -> DualEASE:
        """Invert the users' Gram matrix. Shapes: `interactions` (U, N).

        Raises ValueError when λ is not positive.
        """
        return cls(
            DualPartial.fit(interactions, regularisation=regularisation, precision=precision)
        )

    def scores(self, history: csr_matrix, _user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sum the weights of what was consumed: (B, N)."""
        return self.weights.scores(csr_matrix(history, dtype=np.float32))


def fit_ease(
    interactions: csr_matrix,
    *,
    regularisation: float = 500.0,
    precision: Literal["float32", "float64"] = "float32",
) -> EASE | DualEASE:
    """EASE in the form whose matrix is smaller: over the items, or over the users."""
    n_users, n_items = interactions.shape
    form = EASE if n_items <= n_users else DualEASE
    return form.fit(interactions, regularisation=regularisation, precision=precision)
