"""An index of item vectors: built once, immutable, searched by inner product."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.vectors import gpu
from feature_store.vectors.backend import load_faiss
from feature_store.vectors.filters import BoolArray, IntArray, RowFilter
from feature_store.vectors.kinds import (
    construct,
    effort_of,
    kind_of,
    lists_of,
    set_effort,
    train,
)
from feature_store.vectors.listed import Lists
from feature_store.vectors.sifting import without
from feature_store.vectors.spec import IndexSpec, Kind

FloatArray = NDArray[np.float32]

# A graph walk under a filter loses recall (0.80 when a tenth passes): scan what passes instead.
HNSW_FILTER_SHARE = 0.2
# Up to so many numbers are scanned exactly rather than searched with a filter: about 1 ms.
EXACT_NUMBERS = 2_500_000
# A query that hides more rows than this is searched with a filter of its own.
MAX_OVERFETCH = 1_000


class VectorIndex:
    """Rows 0…n-1 of a float32 matrix, searched by inner product.

    Vectors are expected near unit length: on normalised vectors HNSW keeps 0.997 of the exact top
    100, on raw ones 0.92 to 0.98. Safe to search from several threads; each should bound its own
    OpenMP threads with `single_threaded`.

    Example:
        >>> index = VectorIndex.build(vectors, IndexSpec())        # doctest: +SKIP
        >>> scores, rows = index.search(queries, k=100)
    """

    def __init__(self, index: Any, matrix: FloatArray, *, device: str = "cpu") -> None:
        """Wrap a FAISS index of `matrix`; use `build` or `load`.

        `kind` is how it searches; `effort` is the breadth (vertices visited or lists scanned) and
        the refine factor.
        """
        self._index = index
        self._matrix = matrix
        self.device = device
        self.kind: Kind = kind_of(index)
        self.effort = effort_of(index, self.kind)
        self._scratch = _Scratch()
        self._unfiltered: tuple[object, Any] | None = None

    @classmethod
    def build(
        cls, vectors: FloatArray, spec: IndexSpec, *, device: str = "auto", seed: int = 0
    ) -> VectorIndex:
        """Index `vectors` (n, d) float32.

        Raises:
            ValueError: not a two-dimensional, finite float32 array.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(f"vectors must be a finite (n, d) array, got shape {vectors.shape}")
        index = construct(vectors.shape[1], spec.resolve(len(vectors)))
        if not index.is_trained:
            train(index, vectors, seed)
        index.add(vectors)
        return cls._placed(index, vectors, device)

    @classmethod
    def load(
        cls, path: Path, *, matrix: FloatArray | None = None, device: str = "auto"
    ) -> VectorIndex:
        """Map an index that `save` wrote into memory, shared by every process that does.

        Args:
            path: the file.
            matrix: (n, d) the vectors that were indexed; needed for an inverted file.
            device: auto, cpu or cuda.

        Raises:
            ValueError: the file is not a FAISS index, or not one of `matrix`.
        """
        faiss = load_faiss()
        flag = getattr(faiss, "IO_FLAG_MMAP_IFC", 0)
        try:
            index = faiss.read_index(str(path), flag)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a readable FAISS index") from error
        if matrix is None:
            matrix = np.asarray(index.reconstruct_n(0, index.ntotal), dtype=np.float32)
        if matrix.shape != (index.ntotal, index.d):
            raise ValueError(
                f"{path} holds {index.ntotal} vectors of {index.d} dimensions, and was given the "
                f"matrix of {matrix.shape[0]} × {matrix.shape[1]}"
            )
        return cls._placed(index, matrix, device)

    def save(self, path: Path) -> None:
        """Write the index; one on a GPU is copied back first."""
        faiss = load_faiss()
        index = self._index if self.device == "cpu" else gpu.to_cpu(self._index)
        faiss.write_index(index, str(path))

    def set_effort(self, breadth: int, refine_factor: float = 1.0) -> None:
        """Set how hard it searches, as saved with the index. Only while nobody searches.

        Args:
            breadth: vertices visited (`hnsw`) or lists scanned (`ivf`, `ivfpq`).
            refine_factor: that many times k codes are re-scored exactly (`ivfpq`).
        """
        set_effort(self._index, self.kind, breadth, refine_factor)
        self.effort = effort_of(self._index, self.kind)

    @cached_property
    def _scanned(self) -> Lists | None:
        """The lists that a search scans by itself; None where FAISS searches."""
        return Lists(self._index) if self.kind == "ivf" and self.device == "cpu" else None

    @property
    def best_by_sum(self) -> bool:
        """Whether a search with offsets finds the best by the sum: it need not fetch more rows than
        are wanted."""
        return self._scanned is not None

    @cached_property
    def max_breadth(self) -> int:
        """The largest breadth that changes anything."""
        if self.kind in ("ivf", "ivfpq"):
            return int(lists_of(self._index).nlist)
        return len(self)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    def vectors(self, rows: IntArray) -> FloatArray:
        """The stored vectors of `rows`, (len(rows), d)."""
        return np.asarray(self._matrix[np.asarray(rows)], dtype=np.float32)

    def search(
        self,
        queries: FloatArray,
        k: int,
        *,
        offset: FloatArray | None = None,
        allowed: RowFilter | BoolArray | None = None,
        hidden: Sequence[IntArray] | None = None,
        at_least: int | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """The `k` rows with the largest inner product, best first.

        Filters act inside the search: k rows come back whenever k are allowed.

        Args:
            queries: (B, d) float32.
            k: results per query.
            offset: (n,) float32, added to each row's inner product. Where `best_by_sum` says so the
                best are those by the sum; otherwise they are the best without it, in the order of
                the sum.
            allowed: the rows that may be returned, for all queries; None allows all.
            hidden: B arrays of rows that the query in that place must not get; one that the index
                does not hold hides nothing.
            at_least: a query with fewer rows than this is searched again, exactly; `k` where left
                out. Who fetches more than is served spares itself the second search.

        Returns:
            scores (B, k) float32 and rows (B, k) int64; where fewer were found the tail is -inf
            and -1.

        Raises:
            ValueError: wrong dimension, length of mask or offset, or number of `hidden`.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(
                f"queries have shape {queries.shape}, index takes (B, {self.dimension})"
            )
        if allowed is not None and not isinstance(allowed, RowFilter):
            allowed = RowFilter(allowed)
        if allowed is not None and allowed.mask.shape != (len(self),):
            raise ValueError(
                f"mask has shape {allowed.mask.shape}, index holds {len(self)} vectors"
            )
        if offset is not None and offset.shape != (len(self),):
            raise ValueError(f"offset has shape {offset.shape}, index holds {len(self)} vectors")
        if hidden is not None and len(hidden) != len(queries):
            raise ValueError(f"{len(hidden)} arrays of hidden rows for {len(queries)} queries")
        longest = 0 if hidden is None else max(map(len, hidden), default=0)
        exactly = allowed is not None and self._scan_is_better(allowed)
        if self._scanned is not None and not exactly:
            scores, rows = self._scan(self._scanned, queries, k, offset, allowed, hidden)
        else:
            # The best k + h rows hold the best k that are not among h hidden ones.
            fetched = k + min(longest, MAX_OVERFETCH)
            if allowed is not None and exactly:
                scores, rows = self._exactly(queries, fetched, allowed, offset)
            else:
                scores, rows = self._approximately(queries, fetched, allowed)
            if hidden is not None and longest:
                flags = self._scratch.flags(len(self))
                scores, rows = without(scores, rows, hidden, k, flags)
            if offset is not None and not exactly:
                scores, rows = _reordered(scores + offset[rows], rows)
        there_are = len(self) if allowed is None else allowed.count
        wanted = min(k if at_least is None else at_least, k, there_are)
        if wanted and rows[:, wanted - 1].min() < 0:
            self._complete(queries, scores, rows, wanted, allowed, hidden, offset)
        return scores, rows

    def _scan_is_better(self, allowed: RowFilter) -> bool:
        if allowed.count * self.dimension <= EXACT_NUMBERS:
            return True
        if self.device != "cpu":
            return allowed.share < gpu.MIN_FILTER_SHARE
        return self.kind == "hnsw" and allowed.share < HNSW_FILTER_SHARE

    def _scan(
        self,
        lists: Lists,
        queries: FloatArray,
        k: int,
        offset: FloatArray | None,
        allowed: RowFilter | None,
        hidden: Sequence[IntArray] | None,
    ) -> tuple[FloatArray, IntArray]:
        return lists.search(
            queries,
            k,
            self._breadth(allowed),
            offset=self._no_offset if offset is None else offset,
            allowed=None if allowed is None else allowed.mask,
            hidden=hidden,
            flags=self._scratch.flags(len(self)),
        )

    @cached_property
    def _no_offset(self) -> FloatArray:
        return np.zeros(len(self), np.float32)

    def _approximately(
        self, queries: FloatArray, k: int, allowed: RowFilter | None
    ) -> tuple[FloatArray, IntArray]:
        if self.device != "cpu":
            return _pad(*gpu.search(self._index, queries, k, allowed), k)
        n = min(k, len(self))
        scores, rows = self._index.search(queries, n, params=self._parameters(n, allowed))
        return _pad(scores, rows, k)

    def _parameters(self, k: int, allowed: RowFilter | None) -> Any:
        """FAISS's search parameters; a filter searches as many allowed rows as none would."""
        if allowed is None:  # making one costs a tenth of a search
            key = (k if self.kind == "hnsw" else 0, self.effort)
            if self._unfiltered is None or self._unfiltered[0] != key:
                self._unfiltered = (key, self._made(k, None))
            return self._unfiltered[1]
        return self._made(k, allowed)

    def _made(self, k: int, allowed: RowFilter | None) -> Any:
        faiss = load_faiss()
        selector = {} if allowed is None else {"sel": allowed.selector}
        if self.kind == "flat":
            return faiss.SearchParameters(**selector)
        breadth, (_, refine_factor) = self._breadth(allowed), self.effort
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(k, breadth), **selector)
        lists = faiss.SearchParametersIVF(nprobe=breadth, **selector)
        return faiss.IndexRefineSearchParameters(k_factor=refine_factor, base_index_params=lists)

    def _breadth(self, allowed: RowFilter | None) -> int:
        """The effort's, wider where a filter lets less through."""
        breadth, _ = self.effort
        return min(self.max_breadth, round(breadth / (1.0 if allowed is None else allowed.share)))

    def _complete(
        self,
        queries: FloatArray,
        scores: FloatArray,
        rows: IntArray,
        wanted: int,
        allowed: RowFilter | None,
        hidden: Sequence[IntArray] | None,
        offset: FloatArray | None,
    ) -> None:
        """Scan exactly for the queries that have fewer rows than are wanted, in place."""
        every = RowFilter(np.ones(len(self), np.bool_)) if allowed is None else allowed
        for query in np.flatnonzero(rows[:, wanted - 1] < 0).tolist():
            open_to_it = every
            if hidden is not None and len(hidden[query]):
                open_to_it = every.without(hidden[query])
            found = int((rows[query] >= 0).sum())
            if found < min(wanted, open_to_it.count):
                again = self._exactly(queries[query : query + 1], rows.shape[1], open_to_it, offset)
                scores[query], rows[query] = again[0][0], again[1][0]

    def _exactly(
        self, queries: FloatArray, k: int, allowed: RowFilter, offset: FloatArray | None
    ) -> tuple[FloatArray, IntArray]:
        if allowed.count == 0:
            none = np.empty((len(queries), 0))
            return _pad(none.astype(np.float32), none.astype(np.int64), k)
        span = allowed.span
        vectors = self.vectors(allowed.rows) if span is None else self._matrix[span]
        products = queries @ vectors.T
        if offset is not None:
            products += offset[allowed.rows if span is None else span]
        scores, places = top(products, k)
        return _pad(scores, allowed.rows[places], k)

    @classmethod
    def _placed(cls, index: Any, matrix: FloatArray, device: str) -> VectorIndex:
        if gpu.wanted(index, device):
            return cls(gpu.to_gpu(index), matrix, device="cuda")
        return cls(index, matrix, device="cpu")


class _Scratch(threading.local):
    """An array a thread, so that marking rows costs no allocation of the catalogue's size."""

    def __init__(self) -> None:
        self._flags = np.zeros(0, np.bool_)

    def flags(self, n: int) -> BoolArray:
        """(n,) all False; whoever sets one clears it."""
        if len(self._flags) != n:
            self._flags = np.zeros(n, np.bool_)
        return self._flags


def single_threaded() -> None:
    """Bound FAISS to one OpenMP thread in the calling thread: two make one query slower."""
    load_faiss().omp_set_num_threads(1)


def top(scores: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
    """The `k` largest of each row of `scores` (B, n), best first: values and columns (B, ≤k)."""
    n = scores.shape[1]
    if n > 4 * k:
        best = np.argpartition(scores, n - k, axis=1)[:, n - k :]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.lexsort((best, -values), axis=1)
        return np.take_along_axis(values, order, axis=1), np.take_along_axis(best, order, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def _reordered(scores: FloatArray, rows: IntArray) -> tuple[FloatArray, IntArray]:
    """Each query's rows, best first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _pad(scores: FloatArray, rows: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    missing = k - scores.shape[1]
    rows = rows.astype(np.int64, copy=False)
    scores = scores.astype(np.float32, copy=False)
    if rows[:, -1:].min(initial=0) < 0:
        scores = np.where(rows < 0, np.float32(-np.inf), scores)
    if missing > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
    return scores, rows
