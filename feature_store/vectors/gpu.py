"""Indexes on a GPU, behind the same search.

A flat index and inverted files move as they are; a graph moves as CAGRA where FAISS was built with
cuVS. Compressed 4-bit lists have no GPU form: their index is searched on the GPU through an exact
flat copy where it fits, which one H100 scans faster than a CPU scans codes. GPU indexes take no
filter in general: more rows are fetched and those that are not allowed dropped, and the caller
scans exactly when few rows pass or too few came back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.vectors.backend import load_faiss
from feature_store.vectors.filters import RowFilter

# Below this share of allowed rows an exact scan of them costs less than fetching 1/share times k.
MIN_FILTER_SHARE = 0.1
# What a GPU search can return at most.
MAX_K = 2_048


def wanted(index: Any, device: str) -> bool:
    """Whether `index` goes to a GPU.

    Raises:
        ValueError: `cuda` was asked for, and FAISS sees no GPU.
    """
    faiss = load_faiss()
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if device == "cuda" and not gpus:
        raise ValueError("device='cuda' was asked for, and FAISS sees no GPU")
    if device == "cpu" or not gpus:
        return False
    return not hasattr(index, "hnsw") or hasattr(faiss, "GpuIndexCagra")


def to_gpu(index: Any) -> Any:
    """A copy of `index` on the first GPU."""
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    if hasattr(index, "hnsw"):
        config = faiss.GpuIndexCagraConfig()
        placed = faiss.GpuIndexCagra(resources, index.d, faiss.METRIC_INNER_PRODUCT, config)
        placed.train(index.reconstruct_n(0, index.ntotal))
    elif hasattr(index, "k_factor"):
        flat = faiss.downcast_index(index.refine_index)
        placed = faiss.index_cpu_to_gpu(resources, 0, flat)
    else:
        placed = faiss.index_cpu_to_gpu(resources, 0, index)
    placed.errata_resources = resources  # FAISS keeps a bare pointer
    return placed


def to_cpu(index: Any) -> Any:
    """A copy of a GPU index in main memory."""
    return load_faiss().index_gpu_to_cpu(index)


def search(
    index: Any, queries: NDArray[np.float32], k: int, allowed: RowFilter | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best k allowed rows among those fetched; scores and rows (B, ≤k), -1 where too few."""
    share = 1.0 if allowed is None else max(allowed.share, MIN_FILTER_SHARE)
    fetched = min(int(np.ceil(1.5 * k / share)) if allowed else k, MAX_K, int(index.ntotal))
    scores, rows = index.search(queries, fetched)
    if allowed is not None:
        dropped = (rows >= 0) & ~allowed.mask[rows]
        scores, rows = np.where(dropped, -np.inf, scores), np.where(dropped, -1, rows)
        order = np.argsort(rows < 0, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return scores, rows
