"""Items like those consumed, by co-consumption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from pipelines.recommender.sparse_rows import keep_largest

_BLOCK_ITEMS = 1024


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Score of j = Σ over consumed i of s(i, j), for i among the k most similar items of j.

    s(i, j) = c_ij / ((c_i c_j)^normalisation + shrink), with c_ij the users of both and c_i
    those of i: 0.5 is the cosine, 0 the raw count, 1 rewards rare items. Shrinkage distrusts
    similarities that rest on few users. (Deshpande and Karypis, TOIS 2004.)

    Shapes: `similarity` (N, N) float32 csr; row i holds the items that i speaks for.
    """

    similarity: csr_matrix
    name: str = "itemknn"

    @classmethod
    def fit(
        cls,
        interactions: csr_matrix,
        *,
        neighbours: int = 100,
        shrink: float = 10.0,
        normalisation: float = 0.5,
    ) -> ItemKNN:
        """Find every item's neighbours, a block of items at a time. Shapes: `interactions` (U, N).

        Of equal similarities the lower index is kept. Raises ValueError for fewer than one
        neighbour, or for a negative `shrink` or `normalisation`.
        """
        if neighbours < 1 or shrink < 0 or normalisation < 0:
            raise ValueError(
                f"neighbours={neighbours}, shrink={shrink}, normalisation={normalisation}: "
                "expected at least 1, 0 and 0"
            )
        by_user = csr_matrix(interactions, dtype=np.float32)
        by_item = by_user.T.tocsr()
        norms = np.diff(by_item.indptr).astype(np.float32) ** normalisation
        blocks = []
        for start in range(0, by_item.shape[0], _BLOCK_ITEMS):
            together = (by_item[start : start + _BLOCK_ITEMS] @ by_user).tocsr()
            row = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
            similar = together.data / (norms[start + row] * norms[together.indices] + shrink)
            similar[together.indices == start + row] = 0.0
            together.data = similar
            blocks.append(keep_largest(together, neighbours))
        return cls(similarity=vstack(blocks, format="csr").T.tocsr())

    def scores(self, history: csr_matrix, _user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sum the similarities of what was consumed: (B, N)."""
        summed: NDArray[np.float32] = (history @ self.similarity).toarray()
        return summed


def item_similarity_reference(
    interactions: csr_matrix, *, neighbours: int, shrink: float, normalisation: float
) -> NDArray[np.float64]:
    """`ItemKNN.similarity`, dense, one pair of items at a time."""
    X = interactions.toarray().astype(np.float64)
    n_items = X.shape[1]
    similarity = np.zeros((n_items, n_items))
    for j in range(n_items):
        similar = np.zeros(n_items)
        for i in range(n_items):
            if together := X[:, i] @ X[:, j] * (i != j):
                norm = (X[:, i].sum() * X[:, j].sum()) ** normalisation
                similar[i] = together / (norm + shrink)
        for i in np.argsort(-similar.astype(np.float32), kind="stable")[:neighbours]:
            similarity[i, j] = similar[i]
    return similarity
