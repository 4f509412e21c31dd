"""The kinds of index as FAISS has them: how each is made, trained, told apart and set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.vectors.backend import load_faiss
from feature_store.vectors.spec import IndexSpec, Kind

TRAINING_VECTORS_PER_LIST = 64
PQ_CENTROIDS = 16  # of a 4-bit code


def construct(d: int, spec: IndexSpec) -> Any:
    """An empty FAISS index for vectors of `d` dimensions; `spec.kind` is not `auto`."""
    faiss = load_faiss()
    if spec.kind == "flat":
        return faiss.IndexFlatIP(d)
    if spec.kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, spec.hnsw_neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = spec.hnsw_ef_construction
        index.hnsw.efSearch = spec.hnsw_ef_search
        return index
    description = f"IVF{spec.n_lists},Flat"
    if spec.kind == "ivfpq":
        parts = max(1, d // spec.pq_dimensions)
        while d % parts:
            parts -= 1
        description = f"IVF{spec.n_lists},PQ{parts}x4fs,RFlat"
    index = faiss.index_factory(d, description, faiss.METRIC_INNER_PRODUCT)
    lists = lists_of(index)
    lists.nprobe = spec.n_probe
    lists.cp.spherical = True  # centroids of unit length: lists are chosen by direction
    if spec.kind == "ivfpq":
        index.k_factor = spec.refine_factor
    return index


def train(index: Any, vectors: NDArray[np.float32], seed: int) -> None:
    """Fit the lists (and codes) of an inverted file to a sample of `vectors` (n, d)."""
    lists = lists_of(index)
    lists.cp.seed = seed
    n = min(len(vectors), max(TRAINING_VECTORS_PER_LIST * lists.nlist, 1_000))
    lists.cp.max_points_per_centroid = TRAINING_VECTORS_PER_LIST
    lists.cp.min_points_per_centroid = 1
    sample = vectors[np.random.default_rng(seed).permutation(len(vectors))[:n]]
    if hasattr(lists, "pq"):
        lists.pq.cp.min_points_per_centroid = 1
        sample = np.resize(sample, (max(n, PQ_CENTROIDS), sample.shape[1]))  # repeats a few rows
    index.train(sample)


def kind_of(index: Any) -> Kind:
    """How a FAISS index searches."""
    if hasattr(index, "hnsw"):
        return "hnsw"
    if hasattr(index, "k_factor"):
        return "ivfpq"
    return "ivf" if hasattr(index, "nprobe") else "flat"


def effort_of(index: Any, kind: Kind) -> tuple[int, float]:
    """Breadth and refine factor."""
    if kind == "hnsw":
        return int(index.hnsw.efSearch), 1.0
    if kind == "ivfpq":
        return int(lists_of(index).nprobe), float(index.k_factor)
    return (int(index.nprobe), 1.0) if kind == "ivf" else (0, 1.0)


def set_effort(index: Any, kind: Kind, breadth: int, refine_factor: float) -> None:
    """Inverse of `effort_of`; what a kind has no use for is left out."""
    if kind == "hnsw":
        index.hnsw.efSearch = breadth
    elif kind in ("ivf", "ivfpq"):
        lists_of(index).nprobe = breadth
    if kind == "ivfpq":
        index.k_factor = refine_factor


def lists_of(index: Any) -> Any:
    """The inverted file inside an index."""
    faiss = load_faiss()
    return faiss.downcast_index(faiss.extract_index_ivf(index))
