"""A published recommender as a ranker over newer tables, and its comparison with a new version."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.editions.recommender import RecommenderEdition
from feature_store.interactions.dataset import Dataset
from feature_store.registry import Manifest
from pipelines.challenge import Challenge, Rule, Window, decide, seen_by
from pipelines.recommender.evaluation import evaluate, paired_interval
from pipelines.recommender.pipeline import Run
from pipelines.recommender.preparation import Prepared

FloatArray = NDArray[np.float32]


class PublishedRanker:
    """A published edition over the catalogue of other tables; see `evaluation.Ranker`.

    Items that it does not know are never listed, and do not speak for a user.
    """

    name = "champion"

    def __init__(self, edition: RecommenderEdition, prepared: Prepared, dataset: Dataset) -> None:
        row_of = edition.catalogue.row_of
        rows = np.array([row_of.get(each, -1) for each in prepared.catalogue.item_ids], np.int64)
        self._edition = edition
        self._known = np.flatnonzero(rows >= 0)
        self._rows = rows[self._known]
        ones = np.ones(len(self._known), np.float32)
        shape = (len(rows), len(edition.catalogue))
        self._move = sp.csr_matrix((ones, (self._known, self._rows)), shape=shape)
        self._features = edition.user_features.of_table(dataset.users, prepared.log.user_ids)

    def scores(self, history: sp.csr_matrix, user_rows: NDArray[np.int64]) -> FloatArray:
        """See `evaluation.Ranker`."""
        own = self._edition.scores(sp.csr_matrix(history @ self._move), self._features[user_rows])
        scored = np.full((own.shape[0], self._move.shape[0]), -np.inf, np.float32)
        scored[:, self._known] = own[:, self._rows]
        return scored


def challenge(
    done: Run,
    dataset: Dataset,
    champion: tuple[RecommenderEdition, Manifest] | None,
    *,
    metric: str,
    margin: float,
    rule: Rule,
    seed: int = 0,
) -> Challenge:
    """Compare what `done` published with the champion on the window that `done` held out.

    Raises:
        ValueError: a metric that no single case has.
    """
    ours = done.evaluations[0]
    per_case = ours.slices["all"].per_case
    if metric not in per_case:
        raise ValueError(f"--metric: no '{metric}' among {', '.join(per_case)}")
    begins = _begins(done)
    if champion is None:
        return decide(
            metric=metric, challenger_version=done.manifest.version, champion_version=None,
            challenger=ours.value(metric), champion=None, difference=0.0, interval=(0.0, 0.0),
            window=Window(len(done.cases), begins, "no champion"), margin=margin, rule=rule,
        )  # fmt: skip
    edition, manifest = champion
    popularity = np.asarray(done.cases.history.sum(0), np.float64).ravel()
    theirs = evaluate(
        PublishedRanker(edition, done.prepared, dataset),
        done.cases,
        item_popularity=popularity,
        cutoffs=ours.cutoffs,
    )
    found = paired_interval(ours, theirs, metric=metric, seed=seed)
    held_out = manifest.data_fingerprint == done.manifest.data_fingerprint and manifest.config.get(
        "split"
    ) == done.manifest.config.get("split")
    saw = seen_by(manifest.metrics.get("trained_until"), begins, held_out=held_out)
    return decide(
        metric=metric,
        challenger_version=done.manifest.version,
        champion_version=manifest.version,
        challenger=ours.value(metric),
        champion=theirs.value(metric),
        difference=found.difference,
        interval=(found.low, found.high),
        window=Window(len(done.cases), begins, saw),
        margin=margin,
        rule=rule,
    )


def _begins(done: Run) -> str | None:
    times = done.prepared.log.timestamp_ms
    if times is None:
        return None
    first = int(times[done.held_out].min())
    return datetime.fromtimestamp(first / 1e3, UTC).isoformat(timespec="seconds")
