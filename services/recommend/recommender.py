"""From a batch of requests to ranked lists with their reasons."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.corrections import CORRECTED
from feature_store.interactions.history_rows import HistoryRows
from feature_store.vectors import RowFilter
from services.problems import ProblemError
from services.recommend.assortment import Assortment, Seen
from services.recommend.explaining import explained
from services.recommend.lists import CHOICE_PER_K, Lists
from services.recommend.loading import Served
from services.recommend.ranking import Candidates, in_order
from services.recommend.schemas import RecommendationRequest
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser

log = logging.getLogger(__name__)


class Recommendation(NamedTuple):
    """One answered request, before it is given an id.

    Attributes:
        written: its items as JSON, best first.
        personalised: False when nothing at all was known.
        unknown: history items of the request that the model does not know.
        user: (d + r,) the user's vector. rows: (k,) the items. uncorrected: (k,) their scores
            before any stage moved them.
        history, features: what the model saw of the user; the history is packed.
    """

    written: bytes
    personalised: bool
    unknown: list[str]
    user: NDArray[np.float32]
    rows: NDArray[np.int64]
    uncorrected: NDArray[np.float32]
    history: bytes
    features: Mapping[str, Any]


def recommend(
    served: Served,
    requests: Sequence[RecommendationRequest],
    known: Sequence[KnownUser],
    telemetry: Telemetry,
) -> list[Recommendation | ProblemError]:
    """Rank the catalogue for each request: one tower call at most, one search a filter.

    A request that cannot be answered (an item type that the catalogue lacks) gives its problem;
    the others are answered.
    """
    assortment, edition = served.assortment, served.assortment.edition
    with telemetry.timed("tower"):
        seen = [
            assortment.seen(request.history, user)
            for request, user in zip(requests, known, strict=True)
        ]
        histories = edition.histories([(each.rows, each.weights) for each in seen])
        described = [
            user.features if request.features is None else request.features
            for request, user in zip(requests, known, strict=True)
        ]
        users, shares = _placed(assortment, requests, known, histories, described)
    outcomes: list[Recommendation | ProblemError | None] = [None] * len(requests)
    groups: dict[int, tuple[RowFilter | None, list[int]]] = {}
    for place, request in enumerate(requests):
        try:
            allowed = served.allowed(request.item_types, request.where)
        except ProblemError as problem:
            outcomes[place] = problem
            continue
        groups.setdefault(id(allowed), (allowed, []))[1].append(place)
    for allowed, places in groups.values():
        together = len(places) == len(requests)
        group = [requests[place] for place in places]
        vectors = users if together else users[places]
        with telemetry.timed("search"):
            hidden = [_hidden(assortment, requests[place], seen[place]) for place in places]
            k = max(request.k for request in group)
            scores, rows = edition.retrieval.retrieve(
                vectors,
                shares if together else shares[places],
                histories if together else histories.take(places),
                n=_fetched(served, k),
                k=k,
                allowed=allowed,
                hidden=hidden,
            )
        candidates = Candidates(
            assortment=assortment,
            model_version=served.version,
            user_ids=[request.user_id for request in group],
            users=vectors,
            rows=rows,
            scores=scores,
        )
        with telemetry.timed("rank"):
            _corrected(served, candidates, telemetry)
        with telemetry.timed("describe"):
            lists = Lists.of(candidates, [request.k for request in group], served.rules)
            texts = assortment.written(lists.rows, lists.scores, lists.counts)
            counts = lists.counts.tolist()
            for number, place in enumerate(places):
                request, written = requests[place], texts[number]
                if request.explain:
                    own = histories.take([place])
                    written = explained(served, candidates, lists, number, own)
                outcomes[place] = Recommendation(
                    written,
                    len(seen[place].rows) > 0,
                    [each for each in request.history if assortment.row(each) < 0],
                    candidates.users[number],
                    lists.rows[number, : counts[number]],
                    lists.uncorrected[number, : counts[number]],
                    seen[place].told,
                    described[place],
                )
    return [each for each in outcomes if each is not None]


def _placed(
    assortment: Assortment,
    requests: Sequence[RecommendationRequest],
    known: Sequence[KnownUser],
    histories: HistoryRows,
    described: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """User vectors (B, d + r), and how far each list leans on popularity (B,).

    One call of the tower for all of whom something is new; the others are where this version put
    them when they asked last.
    """
    edition, identity = assortment.edition, assortment.identity
    placed: list[Any] = [
        None if request.history or request.features is not None else user.placed
        for request, user in zip(requests, known, strict=True)
    ]
    new = [p for p, each in enumerate(placed) if each is None or each[0] is not identity]
    if new:
        theirs = histories if len(new) == len(requests) else histories.take(new)
        features = edition.user_features.encode([described[place] for place in new])
        vectors = edition.user_vectors(theirs, features)
        shares = edition.popularity_share(theirs, features)
        for place, vector, share in zip(new, vectors, shares, strict=True):
            placed[place] = (identity, vector.copy(), share)
            if not requests[place].history and requests[place].features is None:
                known[place].placed = placed[place]
        if len(new) == len(requests):
            return vectors, shares
    return np.stack([each[1] for each in placed]), np.array([each[2] for each in placed])


def _hidden(
    assortment: Assortment, request: RecommendationRequest, seen: Seen
) -> NDArray[np.int64]:
    """Rows that must not be returned: excluded, unwanted, and where asked for already seen."""
    rows = seen.met if request.exclude_seen else seen.unwanted
    if not request.exclude:
        return rows
    return np.concatenate([rows, np.array(assortment.rows(request.exclude), np.int64)])


def _fetched(served: Served, k: int) -> int:
    if served.rules.type_caps or served.rules.diversity:
        k *= CHOICE_PER_K
    reached = CORRECTED if served.stages else k
    return max(served.assortment.edition.retrieval.fetched(k), k, reached)


def _corrected(served: Served, candidates: Candidates, telemetry: Telemetry) -> None:
    """Let the stages move the scores."""
    for stage in served.stages:
        try:
            with telemetry.timed(stage.name):
                moved = stage.offsets(candidates)
        except Exception:  # a correction that fails must not cost the answer
            log.exception("stage '%s' failed; its correction was left out", stage.name)
            telemetry.stage_failures.labels(stage.name).inc()
            continue
        if moved is not None:
            candidates.scores = (candidates.scores + moved).astype(np.float32)
            candidates.moved[stage.name] = moved
            if (n := np.count_nonzero(moved)) > 0:
                telemetry.correction.labels(stage.name).observe(float(np.abs(moved).sum() / n))
    if candidates.moved:
        in_order(candidates)
