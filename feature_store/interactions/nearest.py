"""Edges between items whose content vectors point the same way.

Exact nearest neighbours by cosine, a block of destinations at a time; the strength is the cosine.
This is how an item without interactions or tags still has neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import Edges, EdgeType
from feature_store.interactions.strongest import strongest

_BLOCK_ROWS = 2_048


def nearest_edges(
    vectors: NDArray[np.float32], catalogue: Catalogue, *, top_k: int, relation: str
) -> dict[EdgeType, Edges]:
    """The `top_k` nearest items of each type for every item, by cosine above 0.

    Args:
        vectors: (n_items, d) float32 of any length; an item with a zero vector has no edges.
        catalogue: rows and item types.
        top_k: sources kept per destination and source type.
        relation: name of the edges.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    edges = {}
    for source, source_rows in catalogue.ranges.items():
        sources = unit[source_rows.start : source_rows.stop]
        for destination, rows in catalogue.ranges.items():
            found = _nearest(sources, unit, source_rows, rows, top_k)
            if len(found):
                edges[(source, relation, destination)] = found
    return edges


def _nearest(
    sources: NDArray[np.float32],
    unit: NDArray[np.float32],
    source_rows: range,
    rows: range,
    top_k: int,
) -> Edges:
    k = min(top_k, len(sources))
    counts, source, strength = [], [], []
    for start in range(rows.start, rows.stop, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows.stop)
        cosines = sources @ unit[start:stop].T  # (n_sources, block)
        itself = np.arange(start, stop) - source_rows.start
        own = (itself >= 0) & (itself < len(sources))
        cosines[itself[own], np.flatnonzero(own)] = -1.0
        best, values = strongest(cosines, k)
        positive = best >= 0
        counts.append(positive.sum(1))
        source.append(best[positive])
        strength.append(values[positive])
    return Edges(
        indptr=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
        source=np.concatenate(source),
        strength=np.concatenate(strength),
        shared=np.ones(sum(len(each) for each in source), np.int64),
    )
