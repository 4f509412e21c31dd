"""The item graph: items joined by what they share.

Every edge type comes from one *incidence matrix* between items and something that they share:
users (co-interaction), users by a weak signal, categorical values (metadata), entities of a
knowledge graph, or directions of a text space. Two items are joined with the strength

    s(a, b) = Σ_t  x_at x_bt / (√d_a √d_b d_t)

where d are the degrees: the cosine of the two items, in which a thing t shared by many joins them
less (the user-degree normalisation of GF-CF, arXiv 2108.07567; for tags it is an inverse document
frequency). A user with a thousand items adds no more than one with ten.

The pruning rule, since an edge wherever one user met both explodes (11 M edges on 7,390 items):
per edge type and destination item, keep the `top_k` strongest sources that are shared by at least
`min_shared` things. Users are not nodes: they only make edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.catalogue import Catalogue

EdgeType = tuple[str, str, str]
_BLOCK_ROWS = 1024
# Above it a relation is joined on disk (`joined.py`). In memory 75 M pairs of 20,000 items took 560
# MB, and a third less time (benchmarks.graph_joins).
IN_MEMORY_PAIRS = 500_000_000
MEMORY_MB = 2_000


@dataclass(frozen=True)
class Edges:
    """Edges of one edge type, grouped by destination, strongest first.

    Attributes:
        indptr: (n_destinations + 1,) int64.
        source: (n_edges,) int64, row within the source type.
        strength: (n_edges,) float32 in (0, 1].
        shared: (n_edges,) int64, how many things the two items share.
    """

    indptr: NDArray[np.int64]
    source: NDArray[np.int64]
    strength: NDArray[np.float32]
    shared: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class ItemGraph:
    """Edges per edge type (source item type, relation, destination item type)."""

    node_types: tuple[str, ...]
    edges: dict[EdgeType, Edges]

    @classmethod
    def build(
        cls,
        incidences: Mapping[str, sp.csr_matrix],
        catalogue: Catalogue,
        *,
        top_k: int,
        min_shared: Mapping[str, int] | None = None,
        in_memory_pairs: int | None = IN_MEMORY_PAIRS,
        memory_mb: int = MEMORY_MB,
    ) -> ItemGraph:
        """Join items by each relation's incidence matrix (n_items, n_things).

        Args:
            incidences: relation → which item (row of the catalogue) has which thing.
            catalogue: rows and item types.
            top_k: sources kept per destination and edge type.
            min_shared: relation → how many things a pair must share (1 unless named).
            in_memory_pairs: a relation whose join has more is joined on disk; None: none is.
            memory_mb: of such a join.

        Raises:
            ValueError: an incidence matrix with another number of items.
        """
        edges: dict[EdgeType, Edges] = {}
        for relation, incidence in incidences.items():
            if incidence.shape[0] != len(catalogue):
                raise ValueError(
                    f"relation '{relation}' has {incidence.shape[0]} items, the catalogue "
                    f"{len(catalogue)}"
                )
            least = (min_shared or {}).get(relation, 1)
            with _joined(incidence, in_memory_pairs, memory_mb) as strongest:
                for source, source_rows in catalogue.ranges.items():
                    for destination, rows in catalogue.ranges.items():
                        found = strongest(source_rows, rows, top_k=top_k, min_shared=least)
                        if len(found):
                            edges[(source, relation, destination)] = found
        return cls(node_types=catalogue.types, edges=edges)

    def counts(self) -> dict[str, int]:
        """`source-relation-destination` → number of edges, for logs and manifests."""
        return {"-".join(kind): len(edges) for kind, edges in self.edges.items()}


class _Strongest(Protocol):
    """Joins sources to destinations by one relation."""

    def __call__(
        self, source_rows: range, rows: range, /, *, top_k: int, min_shared: int
    ) -> Edges: ...


@contextmanager
def _joined(
    incidence: sp.csr_matrix, in_memory_pairs: int | None, memory_mb: int
) -> Iterator[_Strongest]:
    """What joins items by this matrix, in memory or on disk."""
    from feature_store.interactions.joined import on_disk, pairs_of

    if in_memory_pairs is not None and pairs_of(incidence) > in_memory_pairs:
        with on_disk(incidence, memory_mb=memory_mb) as table:
            yield table.strongest
    else:
        yield partial(_strongest, normalise(incidence), _binary(incidence))


def normalise(incidence: sp.csr_matrix) -> sp.csr_matrix:
    """D_items^-1/2 X D_things^-1/2, the matrix whose rows' inner products are s(a, b)."""
    binary = _binary(incidence)
    items = np.asarray(binary.sum(1)).ravel()
    things = np.asarray(binary.sum(0)).ravel()
    return sp.csr_matrix(sp.diags(_inverse_root(items)) @ binary @ sp.diags(_inverse_root(things)))


def _binary(incidence: sp.csr_matrix) -> sp.csr_matrix:
    binary = sp.csr_matrix(incidence, dtype=np.float32, copy=True)
    binary.sum_duplicates()
    binary.data[:] = 1.0
    return binary


def _inverse_root(degrees: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(degrees > 0, 1.0 / np.sqrt(np.maximum(degrees, 1)), 0.0).astype(np.float32)


def _strongest(
    normalised: sp.csr_matrix,
    binary: sp.csr_matrix,
    source_rows: range,
    rows: range,
    *,
    top_k: int,
    min_shared: int,
) -> Edges:
    source_slice = slice(source_rows.start, source_rows.stop)
    sources, binary_sources = normalised[source_slice].T.tocsr(), binary[source_slice].T.tocsr()
    counts, source, strength, shared = [], [], [], []
    for start in range(rows.start, rows.stop, _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, rows.stop))
        scores = (normalised[block] @ sources).tocsr()
        common = (binary[block] @ binary_sources).tocsr()
        scores.sort_indices()
        common.sort_indices()  # the same pairs in the same order: both products sum positives
        owner = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
        candidate, score, overlap = scores.indices, scores.data, common.data.astype(np.int64)
        itself = owner + block.start == candidate + source_rows.start
        kept = (overlap >= min_shared) & ~itself
        owner, candidate, score, overlap = owner[kept], candidate[kept], score[kept], overlap[kept]
        order = np.lexsort((candidate, -score, owner))
        owner, candidate, score, overlap = (
            each[order] for each in (owner, candidate, score, overlap)
        )
        degrees = np.bincount(owner, minlength=block.stop - block.start)
        rank = np.arange(len(owner)) - (degrees.cumsum() - degrees)[owner]
        top = rank < top_k
        counts.append(np.minimum(degrees, top_k))
        source.append(candidate[top])
        strength.append(score[top])
        shared.append(overlap[top])
    return Edges(
        indptr=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
        source=np.concatenate(source).astype(np.int64),
        strength=np.concatenate(strength).astype(np.float32),
        shared=np.concatenate(shared),
    )


def edges_reference(
    incidence: sp.csr_matrix, source_rows: range, rows: range, *, top_k: int, min_shared: int
) -> list[list[tuple[int, float]]]:
    """The obvious twin: for each destination row, its kept (source, strength), strongest first."""
    dense = incidence.toarray() != 0
    items, things = dense.sum(1), dense.sum(0)
    lists = []
    for b in rows:
        found = []
        for a in source_rows:
            shared = dense[a] & dense[b]
            if a == b or shared.sum() < max(min_shared, 1):
                continue
            strength = (1.0 / things[shared]).sum() / np.sqrt(items[a] * items[b])
            found.append((a - source_rows.start, float(strength)))
        lists.append(sorted(found, key=lambda pair: (-pair[1], pair[0]))[:top_k])
    return lists
