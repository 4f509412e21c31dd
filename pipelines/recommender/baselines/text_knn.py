"""Items that read like those consumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class TextKNN:
    """Score = cosine of the item's text vector and the mean text vector of what was consumed.

    The text baseline of the 2T-HGNN paper (arXiv 2403.05185): it needs no interaction of the item,
    so it can rank what nobody has consumed yet.

    Shapes: `item_vectors` (N, d) float32, each of length 1, or 0 for an item without text.
    """

    item_vectors: NDArray[np.float32]
    name: str = "text_knn"

    @classmethod
    def fit(cls, item_vectors: NDArray[np.float32]) -> TextKNN:
        """Normalise the vectors, of any length, to 1. Raises ValueError unless they are (N, d)."""
        if item_vectors.ndim != 2:
            raise ValueError(f"item vectors have shape {item_vectors.shape}, not (N, d)")
        return cls(item_vectors=_normalise(item_vectors.astype(np.float32)))

    def scores(self, history: csr_matrix, _user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cosines, (B, N); an empty history scores 0 everywhere."""
        # The sum of the vectors points where their mean does.
        taste = _normalise(history @ self.item_vectors)  # (B, d)
        return taste @ self.item_vectors.T


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    length[length == 0] = 1
    return vectors / length
