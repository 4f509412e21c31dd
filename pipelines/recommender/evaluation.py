"""How well a ranker answers the cases, and by how much one answers them better than another.

evaluation = evaluate(ranker, cases, item_popularity=popularity)
evaluation.value("recall@20", slice_name="warm")
paired_interval(ours, theirs, metric="ndcg@20", seed=0)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipelines.recommender import ranking_metrics
from pipelines.recommender.cases import ALL, EvaluationCases
from pipelines.recommender.ranking_metrics import NO_ITEM, RankedLists, ranked_lists

MRR_DEPTH = 100
"""Places that the reciprocal rank looks at, as in the 2T-HGNN paper's protocol."""


class Ranker(Protocol):
    """Anything that scores all items for users it knows by their history alone."""

    @property
    def name(self) -> str:
        """What reports and errors call it."""

    def scores(self, history: csr_matrix, user_rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Score every item for a block of B cases.

        Shapes: `history` (B, N) float32 csr; `user_rows` (B,), the users in the data set, for side
        features; returns (B, N) float32 without NaN. −inf: never to be recommended.
        """


@dataclass(frozen=True, eq=False)
class KnownScores:
    """A ranker whose scores (C, N) of users `user_rows` (C,), ascending, are known already."""

    known: NDArray[np.float32]
    user_rows: NDArray[np.int64]
    name: str = "known"

    def scores(self, history: csr_matrix, user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Ranker`."""
        del history
        return self.known[np.searchsorted(self.user_rows, user_rows)]


@dataclass(frozen=True, eq=False)
class SliceEvaluation:
    """Metrics of one slice.

    per_case: metric name to (n,) float64, for `recall@k`, `ndcg@k`, `hr@k`, `novelty@k` (bits) and
        `mrr@100`; every case keeps its own number, so that two rankers can be compared in pairs.
    overall: metric name to number, for `coverage@k` and `gini@k`, of all the lists at once.
    rows: (n,) int64, the rows of these cases in `EvaluationCases`.
    """

    rows: NDArray[np.int64]
    per_case: Mapping[str, NDArray[np.float64]]
    overall: Mapping[str, float]

    def value(self, metric: str) -> float:
        """Mean over the slice's cases, or the overall number. Raises KeyError if unknown."""
        if metric in self.overall:
            return self.overall[metric]
        if metric not in self.per_case:
            raise KeyError(f"no metric {metric!r} among {self.metrics}")
        return float(self.per_case[metric].mean())

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names that `value` answers to."""
        return (*self.per_case, *self.overall)


@dataclass(frozen=True, eq=False)
class PopularityDeciles:
    """Ten equal groups of the candidates, from least to most popular: who is shown and found.

    Shapes: `recall` (10,), share of the group's targets found among the first `cutoff` places (NaN
    where it has no target); `exposure` (10,), the group's share of all those places.
    """

    cutoff: int
    recall: NDArray[np.float64]
    exposure: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One ranker's answers to one set of cases. `slices` always holds "all", first."""

    ranker: str
    cutoffs: tuple[int, ...]
    slices: Mapping[str, SliceEvaluation]
    deciles: PopularityDeciles
    seconds: float

    def value(self, metric: str, *, slice_name: str = ALL) -> float:
        """A metric such as "ndcg@20", in one slice. Raises KeyError where either is unknown."""
        if slice_name not in self.slices:
            raise KeyError(f"no slice {slice_name!r} among {(*self.slices,)}")
        return self.slices[slice_name].value(metric)


@dataclass(frozen=True)
class PairedInterval:
    """Bootstrap interval of mean(a) − mean(b) over the cases that both were asked."""

    metric: str
    difference: float
    low: float
    high: float
    n_cases: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def evaluate(
    ranker: Ranker,
    cases: EvaluationCases,
    *,
    item_popularity: NDArray[np.float64],
    cutoffs: Sequence[int] = (10, 20, 50),
    batch_size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Rank the candidates of every case and measure the lists, as a whole and per slice.

    `item_popularity` (N,): interactions per item in training. `progress(done, total)` is called
    after every batch. Ties count against the ranker (`ranking_metrics`).
    Memory: one batch of scores, about 24 · batch_size · N bytes, and 9 bytes per listed place.
    Raises ValueError for scores of another shape or with a NaN, naming the ranker.
    """
    if item_popularity.shape != (cases.n_items,):
        raise ValueError(f"popularity has shape {item_popularity.shape}, not ({cases.n_items},)")
    if not cutoffs or min(cutoffs) < 1 or batch_size < 1:
        raise ValueError(f"cutoffs {cutoffs} and batch size {batch_size} must be positive")
    started = time.perf_counter()
    depth = max(*cutoffs, MRR_DEPTH)
    blocks = []
    for start, block in _list_blocks(ranker, cases, depth=depth, batch_size=batch_size):
        blocks.append(block)
        if progress is not None:
            progress(start + len(block.items), len(cases))
    lists = RankedLists(
        items=np.concatenate([block.items for block in blocks]),
        hits=np.concatenate([block.hits for block in blocks]),
    )
    seconds = time.perf_counter() - started
    competing = _competing(cases)
    everyone, everything = np.ones(len(cases), np.bool_), np.ones(cases.n_items, np.bool_)
    masks = {ALL: (everyone, everything)}
    masks |= {name: (mask, everything) for name, mask in cases.slices.items()}
    masks |= {name: (everyone, mask) for name, mask in cases.item_slices.items()}
    measured = {
        name: _measure(
            lists,
            cases,
            rows=case_mask,
            wanted=item_mask,
            popularity=item_popularity,
            cutoffs=cutoffs,
            competing=competing,
        )
        for name, (case_mask, item_mask) in masks.items()
    }
    return Evaluation(
        ranker=ranker.name,
        cutoffs=tuple(cutoffs),
        slices={name: found for name, found in measured.items() if len(found.rows)},
        deciles=_deciles(lists, cases, popularity=item_popularity, cutoff=max(cutoffs)),
        seconds=seconds,
    )


def paired_interval(
    a: Evaluation,
    b: Evaluation,
    *,
    seed: int,
    metric: str = "ndcg@20",
    slice_name: str = ALL,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> PairedInterval:
    """Percentile bootstrap over cases of how much `a` is above `b` in a per-case metric.

    Cases are drawn in pairs: both rankers answered the same ones, so what makes a user easy or hard
    cancels. Raises ValueError when the two were not asked the same cases, KeyError for a metric
    that no single case has, such as coverage.
    """
    left, right = a.slices[slice_name], b.slices[slice_name]
    if not np.array_equal(left.rows, right.rows):
        raise ValueError(f"{a.ranker} and {b.ranker} answered different cases in {slice_name!r}")
    gain = left.per_case[metric] - right.per_case[metric]
    rng = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    for resample in range(n_resamples):
        means[resample] = gain[rng.integers(len(gain), size=len(gain))].mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return PairedInterval(
        metric=metric,
        difference=float(gain.mean()),
        low=float(low),
        high=float(high),
        n_cases=len(gain),
    )


def evaluate_case_reference(
    scores: NDArray[np.float32],
    *,
    targets: set[int],
    excluded: set[int],
    candidates: set[int],
    cutoff: int,
) -> dict[str, float]:
    """One case's accuracy in plain Python, from the rule of ties alone and without a list.

    The rank of a target is one more than the number of eligible items ahead of it: those that score
    higher, those that tie and are no target, and the tied targets of a lower index.
    """
    rivals = [i for i in candidates - excluded if scores[i] > -np.inf]
    ranks = sorted(
        1
        + sum(
            scores[rival] > scores[target]
            or (scores[rival] == scores[target] and (rival not in targets or rival < target))
            for rival in rivals
            if rival != target
        )
        for target in targets
        if scores[target] > -np.inf
    )
    within = [rank for rank in ranks if rank <= cutoff]
    ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(cutoff, len(targets)) + 1))
    return {
        f"recall@{cutoff}": len(within) / len(targets),
        f"ndcg@{cutoff}": sum(1 / np.log2(rank + 1) for rank in within) / ideal,
        f"hr@{cutoff}": float(bool(within)),
        f"mrr@{MRR_DEPTH}": 1 / ranks[0] if ranks and ranks[0] <= MRR_DEPTH else 0.0,
    }


def _list_blocks(
    ranker: Ranker, cases: EvaluationCases, *, depth: int, batch_size: int
) -> Iterator[tuple[int, RankedLists]]:
    """Rank batch by batch, among the candidates only; items are numbered as in the cases."""
    competing = _competing(cases)
    all_compete = len(competing) == cases.n_items
    targets = cases.targets if all_compete else cases.targets[:, competing]
    excluded = cases.excluded if all_compete else cases.excluded[:, competing]
    for start in range(0, len(cases), batch_size):
        rows = slice(start, start + batch_size)
        history = cases.history[rows]
        scores = np.asarray(ranker.scores(history, cases.user_rows[rows]), dtype=np.float32)
        if scores.shape != history.shape:
            raise ValueError(
                f"{ranker.name} returned scores of shape {scores.shape}, not {history.shape}"
            )
        scores = scores if all_compete else scores[:, competing]
        if bad := int(np.isnan(scores).sum()):
            raise ValueError(f"{ranker.name} returned {bad} NaN scores in cases from {start} on")
        lists = ranked_lists(scores, targets=targets[rows], excluded=excluded[rows], length=depth)
        items = np.where(lists.items == NO_ITEM, NO_ITEM, competing[lists.items])
        yield start, RankedLists(items=items, hits=lists.hits)


def _measure(
    lists: RankedLists,
    cases: EvaluationCases,
    *,
    rows: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    popularity: NDArray[np.float64],
    cutoffs: Sequence[int],
    competing: NDArray[np.int64],
) -> SliceEvaluation:
    """Metrics of the cases in `rows` (C,), counting only the targets in `wanted` (N,)."""
    n_targets = (cases.targets @ wanted.astype(np.int64)).astype(np.int64)
    kept = np.flatnonzero(rows & (n_targets > 0))
    items, n_targets = lists.items[kept], n_targets[kept]
    hits = lists.hits[kept] & wanted[items]
    per_case: dict[str, NDArray[np.float64]] = {}
    overall: dict[str, float] = {}
    for k in cutoffs:
        per_case[f"recall@{k}"] = ranking_metrics.recall(hits, n_targets, k)
        per_case[f"ndcg@{k}"] = ranking_metrics.ndcg(hits, n_targets, k)
        per_case[f"hr@{k}"] = ranking_metrics.hit_rate(hits, k)
        per_case[f"novelty@{k}"] = ranking_metrics.novelty(items, popularity, k)
        shown = ranking_metrics.exposure(items, cases.n_items, k)[competing]
        overall[f"coverage@{k}"] = ranking_metrics.coverage(shown)
        overall[f"gini@{k}"] = ranking_metrics.gini(shown)
    per_case[f"mrr@{MRR_DEPTH}"] = ranking_metrics.reciprocal_rank(hits, MRR_DEPTH)
    return SliceEvaluation(rows=kept, per_case=per_case, overall=overall)


def _deciles(
    lists: RankedLists, cases: EvaluationCases, *, popularity: NDArray[np.float64], cutoff: int
) -> PopularityDeciles:
    competing = _competing(cases)
    ascending = competing[np.argsort(popularity[competing], kind="stable")]
    decile = np.zeros(cases.n_items, dtype=np.int64)
    decile[ascending] = np.arange(len(ascending)) * 10 // len(ascending)
    items, hits = lists.items[:, :cutoff], lists.hits[:, :cutoff]
    shown = np.bincount(decile[items[items != NO_ITEM]], minlength=10)
    found = np.bincount(decile[items[hits]], minlength=10)
    wanted = np.bincount(decile[cases.targets.indices], minlength=10)
    return PopularityDeciles(
        cutoff=cutoff,
        recall=np.where(wanted > 0, found / np.maximum(wanted, 1), np.nan),
        exposure=shown / max(int(shown.sum()), 1),
    )


def _competing(cases: EvaluationCases) -> NDArray[np.int64]:
    if cases.candidates is None:
        return np.arange(cases.n_items)
    return np.flatnonzero(cases.candidates)
