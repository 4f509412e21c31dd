"""Choose an index and its effort for a recall, measured on a sample of real queries.

What is searched for is what is served: the best k of `q·x + offset`, where the offset is what
popularity is worth. Two things can lose a row of that list: the approximation, and, where an index
adds the offset to what it has found, too few rows found. Both are tuned on one half of the queries;
the recall that is reported is measured on the other half.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.vectors.index import VectorIndex, single_threaded, top
from feature_store.vectors.spec import IndexSpec, Kind

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

FETCHED_PER_K = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)
REFINE_FACTORS = (2, 4, 8)
MIN_BREADTH = 8
MAX_FLAT, MAX_LISTS_BESIDE_FLAT = 20_000, 200_000
_BLOCK_NUMBERS = 32_000_000


@dataclass(frozen=True)
class Trial:
    """One setting that was measured on held-out queries.

    Attributes:
        breadth: lists scanned, or vertices visited; 0 for `flat`.
        refine_factor: that many times `fetched` codes were re-scored exactly.
        fetched: rows taken from the index.
        recall: share of the exact best k that was found.
        p50_ms, p99_ms: time of one query on one thread.
    """

    kind: Kind
    breadth: int
    refine_factor: float
    fetched: int
    recall: float
    p50_ms: float
    p99_ms: float
    build_s: float


@dataclass(frozen=True)
class Tuned:
    """The fastest index that reached the target, or the most exact one where none did.

    Attributes:
        nearest: how many nearest vectors hold enough of the served lists: as many has an index to
            fetch that adds the offset later, as the same lists do on another device.
    """

    index: VectorIndex
    best: Trial
    nearest: int
    trials: tuple[Trial, ...]
    reached: bool


def kinds_for(n_vectors: int) -> tuple[Kind, ...]:
    """Which kinds are worth a trial: a graph takes long to build and is tried when asked for."""
    if n_vectors <= MAX_FLAT:
        return ("flat",)
    if n_vectors <= MAX_LISTS_BESIDE_FLAT:
        return ("flat", "ivf", "ivfpq")
    return ("ivf", "ivfpq")


def tune(
    vectors: FloatArray,
    queries: FloatArray,
    *,
    target_recall: float,
    k: int = 100,
    offset: FloatArray | None = None,
    kinds: Sequence[Kind] | None = None,
    seed: int = 0,
    on_trial: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Build the kinds, find each one's least effort for `target_recall`, keep the fastest.

    Args:
        vectors: (n, d) float32.
        queries: (Q, d) float32, Q ≥ 2, a sample of what will be searched.
        target_recall: of the exact best k, in (0, 1].
        k: length of the served list.
        offset: (n,) added to the inner product; None is zero.
        kinds: which to try; `kinds_for` where left out.
        seed: of the training.
        on_trial: told what goes on.

    Raises:
        ValueError: fewer than two queries, or a recall outside (0, 1].
    """
    if len(queries) < 2 or not 0 < target_recall <= 1:
        raise ValueError(
            f"tuning takes at least 2 queries and a recall in (0, 1], got {len(queries)} and "
            f"{target_recall}"
        )
    single_threaded()
    offset = np.zeros(len(vectors), np.float32) if offset is None else offset
    k = min(k, len(vectors))
    sample = _Sample(vectors, queries, offset, k)
    # Half of what may be lost is left to the approximation.
    nearest = sample.fetched_for((1 + target_recall) / 2)
    best: tuple[Trial, VectorIndex] | None = None
    trials: list[Trial] = []
    for kind in kinds or kinds_for(len(vectors)):
        on_trial(f"building {kind}")
        started = time.perf_counter()
        index = VectorIndex.build(vectors, IndexSpec(kind=kind), device="cpu", seed=seed)
        build_s = time.perf_counter() - started
        fetched = k if index.best_by_sum else nearest
        for refine_factor in REFINE_FACTORS if kind == "ivfpq" else (1,):
            on_trial(f"tuning {kind}" + (f" ×{refine_factor}" if kind == "ivfpq" else ""))
            breadth = _least_breadth(index, refine_factor, sample, fetched, target_recall)
            index.set_effort(breadth, refine_factor)
            trial = sample.trial(index, fetched, build_s)
            trials.append(trial)
            if best is None or _is_better(trial, best[0], target_recall):
                best = (trial, index)
    assert best is not None
    trial, index = best
    index.set_effort(trial.breadth, trial.refine_factor)
    return Tuned(index, trial, nearest, tuple(trials), trial.recall >= target_recall)


def exact_top(
    vectors: FloatArray, queries: FloatArray, k: int, *, offset: FloatArray | None = None
) -> IntArray:
    """(Q, k) rows with the largest `q·x + offset`, best first, by a scan."""
    block = max(1, _BLOCK_NUMBERS // len(vectors))
    found = []
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ vectors.T
        found.append(top(scores if offset is None else scores + offset, k)[1])
    return np.concatenate(found)


def recall(exact: IntArray, found: IntArray) -> float:
    """The mean share of each row of `exact` that is in the same row of `found`."""
    return float(_shares(exact, found).mean())


def _shares(exact: IntArray, found: IntArray) -> NDArray[np.float64]:
    """(Q,) the share of each row of `exact` that is in the same row of `found`."""
    both = zip(exact.tolist(), found.tolist(), strict=True)
    return np.array([len(set(a).intersection(b)) / len(a) for a, b in both])


class _Sample:
    """Queries with their exact answers: the first half to tune on, the second to report."""

    def __init__(self, vectors: FloatArray, queries: FloatArray, offset: FloatArray, k: int):
        self.k = k
        self.queries = np.ascontiguousarray(queries, dtype=np.float32)
        self.offset = offset
        self.exact = exact_top(vectors, self.queries, k, offset=offset)
        self.half = len(queries) // 2
        most: int = min(int(k * FETCHED_PER_K[-1]), len(vectors))
        self.nearest = exact_top(vectors, self.queries[: self.half], most)

    def fetched_for(self, ceiling: float) -> int:
        """How many nearest rows hold that share of the served list."""
        most: int = self.nearest.shape[1]
        for factor in FETCHED_PER_K:
            fetched = min(int(self.k * factor), most)
            if recall(self.exact[: self.half], self.nearest[:, :fetched]) >= ceiling:
                return fetched
        return most

    def tuning_recall(self, index: VectorIndex, fetched: int) -> float:
        """On the first half, less its standard error: others must reach the target too."""
        queries = self.queries[: self.half]
        _, rows = index.search(queries, fetched, offset=self.offset, at_least=self.k)
        # The best k by q·x + offset of the fetched are served: an exact one that was fetched is.
        shares = _shares(self.exact[: self.half], rows)
        return float(shares.mean() - shares.std() / len(shares) ** 0.5)

    def trial(self, index: VectorIndex, fetched: int, build_s: float) -> Trial:
        """On the second half, query by query."""
        times, found = [], []
        for query in self.queries[self.half :]:
            started = time.perf_counter()
            _, rows = index.search(query[None], fetched, offset=self.offset, at_least=self.k)
            times.append(time.perf_counter() - started)
            found.append(rows[0])
        breadth, refine_factor = index.effort
        return Trial(
            kind=index.kind,
            breadth=breadth,
            refine_factor=refine_factor,
            fetched=fetched,
            recall=recall(self.exact[self.half :], np.stack(found)),
            p50_ms=float(np.percentile(times, 50)) * 1e3,
            p99_ms=float(np.percentile(times, 99)) * 1e3,
            build_s=build_s,
        )


def _least_breadth(
    index: VectorIndex, refine_factor: float, sample: _Sample, fetched: int, target: float
) -> int:
    if index.kind == "flat":
        return 0

    def reaches(breadth: int) -> bool:
        index.set_effort(breadth, refine_factor)
        return sample.tuning_recall(index, fetched) >= target

    high = min(MIN_BREADTH, index.max_breadth)
    while not reaches(high):
        if high == index.max_breadth:
            return high
        high = min(2 * high, index.max_breadth)
    low = high // 2
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    # A sixteenth more: the held-out half must reach the target too.
    return min(high + max(1, high // 16), index.max_breadth)


def _is_better(trial: Trial, than: Trial, target: float) -> bool:
    if (trial.recall >= target) != (than.recall >= target):
        return trial.recall >= target
    if trial.recall < target:
        return trial.recall > than.recall
    return trial.p50_ms < than.p50_ms
