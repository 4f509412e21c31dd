"""A version answers what was asked lately before it serves anyone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from feature_store.online import digest
from feature_store.pacing import Pause, no_pause
from feature_store.vectors import single_threaded
from services.problems import ProblemError
from services.recommend.loading import Served
from services.recommend.recommender import recommend
from services.recommend.schemas import RecommendationRequest
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser

REMEMBERED_QUERIES = 16
_TOGETHER = 8
# Pages of the index that nobody has read yet come from the disk: a sample of rows reads them in.
TOUCHED_ROWS = 4_096
_TOUCHED_AT_ONCE = 256


class WarmUpError(Exception):
    """The version loads, and does not answer as it must."""


class RecentQueries:
    """The last requests with what was known of their users."""

    def __init__(self) -> None:
        self._queries: deque[tuple[RecommendationRequest, KnownUser]] = deque(
            maxlen=REMEMBERED_QUERIES
        )
        self._lock = threading.Lock()

    def remember(
        self, requests: Sequence[RecommendationRequest], known: Sequence[KnownUser]
    ) -> None:
        """Keep these, and forget the oldest."""
        with self._lock:
            self._queries.extend(zip(requests, known, strict=True))

    def forget(self, users: Collection[str]) -> None:
        """Drop what was asked for users of these `digest`s."""
        with self._lock:
            kept = [
                (request, known)
                for request, known in self._queries
                if request.user_id is None or digest(request.user_id) not in users
            ]
            self._queries.clear()
            self._queries.extend(kept)

    def sample(self) -> list[tuple[RecommendationRequest, KnownUser]]:
        """What is remembered, oldest first."""
        with self._lock:
            return list(self._queries)


def warm_up(
    served: Served,
    recent: Sequence[tuple[RecommendationRequest, KnownUser]],
    *,
    pause: Pause = no_pause,
) -> None:
    """Answer the recent queries, and three that every catalogue can answer, with a `pause` behind
    each.

    Raises:
        WarmUpError: an answer failed, is empty though items are offered, or has no finite score.
    """
    single_threaded()
    assortment, telemetry = served.assortment, Telemetry()
    vectors = assortment.edition.item_vectors
    rows = np.linspace(0, len(vectors) - 1, min(TOUCHED_ROWS, len(vectors))).astype(np.int64)
    for start in range(0, len(rows), _TOUCHED_AT_ONCE):
        if not np.isfinite(vectors[rows[start : start + _TOUCHED_AT_ONCE]]).all():
            raise WarmUpError(f"version {served.version} has item vectors that are no numbers")
        pause()
    some = list(assortment.edition.catalogue.item_ids[:3])
    own = [
        (RecommendationRequest(k=10), KnownUser()),
        (RecommendationRequest(k=10, history=some, exclude_seen=False), KnownUser()),
        (
            RecommendationRequest(k=10, history=some[:1], exclude_seen=False, explain=True),
            KnownUser(),
        ),
    ]
    queries = [*own, *recent]
    # One at a time, as they come when it is quiet, and then several together.
    groups = [queries[at : at + _TOGETHER] for at in range(0, len(queries), _TOGETHER)]
    for batch in (*([query] for query in queries), *groups):
        outcomes = recommend(served, [q[0] for q in batch], [q[1] for q in batch], telemetry)
        pause()
        for (request, known), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ProblemError):
                continue  # asked of another version: this one may lack the item type
            if not np.isfinite(outcome.uncorrected).all() or b'"score":null' in outcome.written:
                raise WarmUpError(f"version {served.version} gives scores that are no numbers")
            refused = assortment.seen(request.history, known).unwanted
            found = len(outcome.rows) or len(refused) or not assortment.n_offered
            if not found and _must_find(request):
                raise WarmUpError(f"version {served.version} finds nothing")


def _must_find(request: RecommendationRequest) -> bool:
    return not (request.item_types or request.where or request.exclude or request.exclude_seen)
