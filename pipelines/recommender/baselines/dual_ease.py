"""EASE where items outnumber users: the same scores from a matrix over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv
from scipy.sparse import csr_matrix

_BLOCK_ITEMS = 4_096


@dataclass(frozen=True, eq=False)
class DualEASE:
    """Score = history · B of `EASE`, exactly, without an (N, N) matrix.

    By Woodbury, P = (XᵀX + λI)⁻¹ = (I − XᵀKX) / λ with K = (XXᵀ + λI)⁻¹. The score of item j is
    then −(hP)_j / P_jj + h_j.

    Shapes: `interactions` (U, N) csr; `kernel` (U, U) K; `diagonal` (N,) of P. Memory: 8 U² bytes.
    """

    interactions: csr_matrix
    kernel: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    regularisation: float
    name: str = "ease"

    @classmethod
    def fit(cls, interactions: csr_matrix, *, regularisation: float = 500.0) -> DualEASE:
        """Invert the users' Gram matrix. Shapes: `interactions` (U, N).

        Raises ValueError when λ is not positive.
        """
        if regularisation <= 0:
            raise ValueError(f"regularisation is {regularisation}, not above 0")
        X = csr_matrix(interactions, dtype=np.float64)
        kernel = (X @ X.T).toarray()
        kernel[np.diag_indices_from(kernel)] += regularisation
        kernel = inv(kernel, overwrite_a=True)
        by_item = X.T.tocsr()
        explained = np.concatenate(
            [
                np.asarray(block.multiply(block @ kernel).sum(1)).ravel()
                for block in (
                    by_item[start : start + _BLOCK_ITEMS]
                    for start in range(0, X.shape[1], _BLOCK_ITEMS)
                )
            ]
        )
        return cls(X, kernel, (1.0 - explained) / regularisation, regularisation)

    def scores(self, history: csr_matrix, _user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sum the weights of what was consumed: (B, N)."""
        alike = (history @ self.interactions.T) @ self.kernel  # (B, U)
        inner = (history.toarray() - alike @ self.interactions) / self.regularisation
        scored: NDArray[np.float64] = history.toarray() - inner / self.diagonal
        return scored.astype(np.float32)
