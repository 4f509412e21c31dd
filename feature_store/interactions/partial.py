"""Edges by partial association: what an item adds to a prediction when the others are known.

Co-interaction counts call two items close when both are merely popular. Regressing every item on
all others (EASE, arXiv 1905.03375) explains that away:

    P = (XᵀX + λI)⁻¹,    s_ji = −P_ji / P_ii    (j ≠ i)

An edge j → i is kept when s_ji > 0 is among the `top_k` largest into i from j's item type. Dense
and cubic: for catalogues of up to some 20,000 items, or of any size with as few users
(`dual_partial.py`). `graph.py` has the rule for what is larger in both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.dual_partial import DualPartial
from feature_store.interactions.graph import Edges, EdgeType
from feature_store.interactions.inverse import invert_in_place
from feature_store.interactions.strongest import strongest

_BLOCK_ITEMS = 1_024
_BLOCK_EDGES = 50_000


class PartialWeights(Protocol):
    """The matrix s of the module, (n, n), as far as it is needed."""

    def columns(self, items: NDArray[np.int64], /) -> NDArray[np.float32]:
        """(n, m): what predicts these items (m,)."""

    def rows(self, items: NDArray[np.int64], /) -> NDArray[np.float32]:
        """(m, n): what these items (m,) predict."""

    def times(self, block: NDArray[np.float32], items: NDArray[np.int64], /) -> NDArray[np.float32]:
        """(n, k): `columns(items) @ block`, of a block (m, k)."""

    def transposed_times(
        self, block: NDArray[np.float32], items: NDArray[np.int64], /
    ) -> NDArray[np.float32]:
        """(m, k): `columns(items).T @ block`, of a block (n, k)."""


@dataclass(frozen=True, eq=False)
class DensePartial:
    """`partial_weights` as they are: (n, n) float32."""

    weights: NDArray[np.float32]

    def columns(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `PartialWeights`; a view where all items are asked for, or a range of them."""
        if len(items) and np.array_equal(items, np.arange(items[0], items[0] + len(items))):
            return self.weights[:, items[0] : items[0] + len(items)]
        return self.weights[:, items]

    def rows(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `PartialWeights`."""
        return self.weights[items]

    def times(self, block: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `PartialWeights`."""
        return self.columns(items) @ block

    def transposed_times(
        self, block: NDArray[np.float32], items: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `PartialWeights`."""
        return self.columns(items).T @ block


def is_feasible(n_users: int, n_items: int, *, limit: int) -> bool:
    """Whether either side is small enough for a dense matrix over it."""
    return min(n_users, n_items) <= limit


def fit_partial(
    interactions: sp.csr_matrix, *, regularisation: float, limit: int
) -> PartialWeights:
    """The dense weights up to `limit` items, and beyond it those of as few users.

    Raises:
        ValueError: λ is not positive.
    """
    if interactions.shape[1] > limit and interactions.shape[0] < interactions.shape[1]:
        return DualPartial.fit(interactions, regularisation=regularisation)
    return DensePartial(partial_weights(interactions, regularisation=regularisation))


def partial_edges(
    interactions: sp.csr_matrix,
    catalogue: Catalogue,
    *,
    regularisation: float,
    top_k: int,
    relation: str,
    limit: int = 20_000,
    destinations: Collection[str] | None = None,
) -> dict[EdgeType, Edges]:
    """Edges between every pair of item types.

    Args:
        interactions: (n_users, n_items) who met what, in training.
        catalogue: rows and item types.
        regularisation: λ.
        top_k: sources kept per destination and source type.
        relation: name of the edges.
        limit: of the dense matrix, see `fit_partial`.
        destinations: only edges into these types; None is all.
    """
    weights = fit_partial(interactions, regularisation=regularisation, limit=limit)
    columns = interactions.tocsc()
    wanted = [each for each in catalogue.types if destinations is None or each in destinations]
    parts: dict[tuple[str, str], list[Edges]] = {
        (source, destination): [] for source in catalogue.types for destination in wanted
    }
    for destination in wanted:
        rows = catalogue.ranges[destination]
        for start in range(rows.start, rows.stop, _BLOCK_ITEMS):
            into = weights.columns(np.arange(start, min(start + _BLOCK_ITEMS, rows.stop)))
            for source, source_rows in catalogue.ranges.items():
                block = into[source_rows.start : source_rows.stop]
                parts[source, destination].append(_edges(block, top_k))
    edges = {}
    for (source, destination), blocks in parts.items():
        kept = _joined(blocks)
        if len(kept):
            edges[source, relation, destination] = _with_counts(
                kept, columns, catalogue.ranges[source], catalogue.ranges[destination]
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
    invert_in_place(inverse, regularisation=regularisation)
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


def _edges(weights: NDArray[np.float32], top_k: int) -> Edges:
    """The largest positive entries of each column; columns are destinations. `shared` is not
    known."""
    source, strength = strongest(weights, min(top_k, len(weights)))
    positive = source >= 0
    return Edges(
        indptr=np.concatenate([[0], positive.sum(1).cumsum()]).astype(np.int64),
        source=source[positive],
        strength=strength[positive],
        shared=np.zeros(int(positive.sum()), np.int64),
    )


def _joined(parts: Sequence[Edges]) -> Edges:
    """The edges into consecutive blocks of destinations as one."""
    counts = np.concatenate([np.diff(part.indptr) for part in parts])
    return Edges(
        indptr=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        source=np.concatenate([part.source for part in parts]),
        strength=np.concatenate([part.strength for part in parts]),
        shared=np.concatenate([part.shared for part in parts]),
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
