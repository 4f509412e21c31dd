"""Implicit matrix factorisation, users folded in from their history."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class IALS:
    """Score = x_u · y_i, with x_u solved from the history against the fitted item factors.

    min Σ c_ui (p_ui − x_u · y_i)² + λ(Σ‖x_u‖² + Σ‖y_i‖²), with confidence c_ui = α for what was
    consumed and 1 elsewhere. (Hu, Koren and Volinsky, ICDM 2008; solved by `implicit`.) The users
    of the training matrix are forgotten: everybody is folded in, so new users are as good as old.

    `model` is fitted; Shapes: `model.item_factors` (N, factors) float32.
    """

    model: AlternatingLeastSquares
    name: str = "ials"

    @classmethod
    def fit(
        cls,
        interactions: csr_matrix,
        *,
        factors: int = 64,
        regularisation: float = 0.1,
        confidence: float = 10.0,
        iterations: int = 15,
        seed: int = 0,
        threads: int = 1,
    ) -> IALS:
        """Alternate between user and item factors. Shapes: `interactions` (U, N).

        Seeded and on one thread, so that a run can be repeated.
        """
        with warnings.catch_warnings():
            # Of BLAS threads: the solver's time is not spent in BLAS.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"implicit\.")
            model = AlternatingLeastSquares(
                factors=factors,
                regularization=regularisation,
                alpha=confidence,
                iterations=iterations,
                random_state=seed,
                num_threads=threads,
            )
            model.fit(csr_matrix(interactions, dtype=np.float32), show_progress=False)
        model.user_factors = None
        return cls(model=model)

    def scores(self, history: csr_matrix, user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Fold the histories in and multiply: (B, N). An empty history scores 0 everywhere."""
        users = self.model.recalculate_user(np.arange(len(user_rows)), history)  # (B, factors)
        scored: NDArray[np.float32] = users @ self.model.item_factors.T
        return scored
