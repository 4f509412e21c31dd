"""Edges by partial association: what an item adds to a prediction when the others are known.

Co-interaction counts call two items close when both are merely popular. Regressing every item on
all others (EASE, arXiv 1905.03375) explains that away:

    P = (XᵀX + λI)⁻¹,    s_ji = −P_ji / P_ii    (j ≠ i)

An edge j → i is kept when s_ji > 0 is among the `top_k` largest into i from j's item type. Dense
and cubic: for catalogues of up to some 20,000 items. `graph.py` has the rule for larger ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import Edges, EdgeType

_BLOCK_ITEMS = 1_024
_BLOCK_EDGES = 50_000


def partial_edges(
    interactions: sp.csr_matrix,
    catalogue: Catalogue,
    *,
    regularisation: float,
    top_k: int,
    relation: str,
) -> dict[EdgeType, Edges]:
    """Edges between every pair of item types.

    Args:
        interactions: (n_users, n_items) who met what, in training.
        catalogue: rows and item types.
        regularisation: λ.
        top_k: sources kept per destination and source type.
        relation: name of the edges.
    """
    weights = partial_weights(interactions, regularisation=regularisation)
    columns = interactions.tocsc()
    edges = {}
    for source, source_rows in catalogue.ranges.items():
        for destination, rows in catalogue.ranges.items():
            block = weights[source_rows.start : source_rows.stop, rows.start : rows.stop]
            kept = _edges(block.T, top_k)
            if len(kept):
                edges[(source, relation, destination)] = _with_counts(
                    kept, columns, source_rows, rows
                )
    return edges


def partial_weights(
    interactions: sp.csr_matrix,
    *,
    regularisation: float,
    precision: Literal["float32", "float64"] = "float32",
) -> NDArray[np.float32]:
    """The equation of the module: (n, n) float32 with a zero diagonal; column i predicts item i.

    Memory: 4 n² bytes at "float32", which has no second matrix at all, 12 n² at "float64". On
    ML-1M (λ = 800) both rank alike.

    Raises:
        ValueError: λ is not positive, or too small for the precision.
    """
    if regularisation <= 0:
        raise ValueError(f"regularisation is {regularisation}, not above 0")
    inverse = _gram(interactions, dtype=np.dtype(precision))
    inverse[np.diag_indices_from(inverse)] += regularisation
    _invert_in_place(inverse, regularisation=regularisation)
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0.0)
    return inverse.astype(np.float32, copy=False)


def _gram(X: sp.csr_matrix, *, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """XᵀX as a dense (N, N), filled by blocks: the sparse product would need more than that."""
    by_item = X.T.tocsr()
    n_items = by_item.shape[0]
    gram = np.empty((n_items, n_items), dtype=dtype)
    for start in range(0, n_items, _BLOCK_ITEMS):
        gram[start : start + _BLOCK_ITEMS] = (by_item[start : start + _BLOCK_ITEMS] @ X).toarray()
    return gram


def _invert_in_place(matrix: NDArray[np.floating], *, regularisation: float) -> None:
    """Cholesky inverse of a symmetric positive definite (N, N), without a second copy.

    LAPACK works on columns; the transposed view of a symmetric matrix is the same matrix, so the
    call overwrites ours. It fills one triangle, which is then mirrored block by block.
    """
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = potrf(matrix.T, lower=True, overwrite_a=True, clean=False)
    if not failed:
        _, failed = potri(factor, lower=True, overwrite_c=True)
    if failed:
        raise ValueError(
            f"XᵀX + {regularisation}·I is not positive definite in {matrix.dtype}: "
            "raise the regularisation or the precision"
        )
    # Lower in LAPACK's columns is upper in our rows.
    for start in range(0, len(matrix), _BLOCK_ITEMS):
        stop = start + _BLOCK_ITEMS
        square = matrix[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def _edges(weights: NDArray[np.float32], top_k: int) -> Edges:
    """The largest positive entries of each row; rows are destinations. `shared` is not known."""
    k = min(top_k, weights.shape[1])
    source = np.sort(np.argpartition(-weights, k - 1, axis=1)[:, :k], axis=1)
    strength = np.take_along_axis(weights, source, axis=1)
    order = np.argsort(-strength, axis=1, kind="stable")
    source = np.take_along_axis(source, order, axis=1)
    strength = np.take_along_axis(strength, order, axis=1)
    positive = strength > 0
    return Edges(
        indptr=np.concatenate([[0], positive.sum(1).cumsum()]).astype(np.int64),
        source=source[positive].astype(np.int64),
        strength=strength[positive].astype(np.float32),
        shared=np.zeros(int(positive.sum()), np.int64),
    )


def _with_counts(edges: Edges, columns: sp.csc_matrix, source_rows: range, rows: range) -> Edges:
    """The edges with the number of users who met both ends."""
    destination = np.repeat(np.arange(len(rows)), np.diff(edges.indptr)) + rows.start
    source = edges.source + source_rows.start
    shared = np.zeros(len(edges), np.int64)
    for start in range(0, len(edges), _BLOCK_EDGES):
        block = slice(start, start + _BLOCK_EDGES)
        both = columns[:, source[block]].multiply(columns[:, destination[block]])
        shared[block] = np.asarray(both.sum(0)).ravel()
    return replace(edges, shared=shared)
