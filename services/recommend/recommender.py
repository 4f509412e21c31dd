"""From a batch of requests to ranked lists with their reasons."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.vectors import RowFilter
from services.problems import ProblemError
from services.recommend.assortment import Assortment, RowHistory
from services.recommend.diversity import capped, maximal_marginal_relevance
from services.recommend.item_texts import SCORE_DECIMALS
from services.recommend.loading import Served
from services.recommend.memory import MemoryStage
from services.recommend.ranking import Candidates, in_order
from services.recommend.schemas import RecommendationRequest
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser

log = logging.getLogger(__name__)

MAX_REASONS = 3
_WHEN = attrgetter("timestamp_ms")
# Caps and diversity choose among more than they return.
CHOICE_PER_K = 3


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One answered request, before it is given an id.

    Attributes:
        item_ids, scores: best first.
        items: the same as in the answer, as JSON.
        personalised: False when nothing at all was known.
        unknown: history items of the request that the model does not know.
        user: (d + r,) the user's vector. rows: (k,) the items. uncorrected: (k,) their scores
            before any stage moved them.
        history, features: what the model saw of the user.
    """

    item_ids: list[str]
    scores: list[float]
    items: bytes
    personalised: bool
    unknown: list[str]
    user: NDArray[np.float32]
    rows: NDArray[np.int64]
    uncorrected: NDArray[np.float32]
    history: list[tuple[str, str]]
    features: Mapping[str, Any]


def recommend(
    served: Served,
    requests: Sequence[RecommendationRequest],
    known: Sequence[KnownUser],
    telemetry: Telemetry,
) -> list[Recommendation | ProblemError]:
    """Rank the catalogue for each request: one tower call, one search a filter.

    A request that cannot be answered (an item type that the catalogue lacks) gives its problem;
    the others are answered.
    """
    assortment, edition = served.assortment, served.assortment.edition
    with telemetry.timed("tower"):
        told = [_newest_first(*each) for each in zip(requests, known, strict=True)]
        events = [assortment.history(each) for each in told]
        histories = edition.weigh([each.speaking for each in events])
        described = [
            request.features or user.features for request, user in zip(requests, known, strict=True)
        ]
        features = edition.user_features.encode(described)
        users = edition.user_vectors(histories, features)
        shares = edition.popularity_share(histories, features)
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
        chosen = np.array(places)
        group = [requests[place] for place in places]
        with telemetry.timed("search"):
            hidden = [_hidden(assortment, requests[p], known[p], events[p]) for p in places]
            k = max(request.k for request in group)
            scores, rows = edition.retrieve(
                users[chosen],
                shares[chosen],
                histories if len(places) == len(requests) else histories[chosen],
                n=_fetched(served, k),
                k=k,
                allowed=allowed,
                hidden=hidden,
            )
        candidates = Candidates(
            assortment=assortment,
            model_version=served.version,
            user_ids=[request.user_id for request in group],
            users=users[chosen],
            rows=rows,
            scores=scores,
        )
        with telemetry.timed("rank"):
            _corrected(served, candidates, telemetry)
        with telemetry.timed("describe"):
            for number, place in enumerate(places):
                outcomes[place] = _answered(
                    served, requests[place], candidates, number, histories=histories, place=place,
                    history=told[place], features=described[place],
                )  # fmt: skip
    return [each for each in outcomes if each is not None]


def _newest_first(request: RecommendationRequest, known: KnownUser) -> list[tuple[str, str]]:
    """(item id, type): what the request tells is newer than what is stored.

    Feedback can arrive late: what counts is when it happened, as in training.
    """
    told = [(item_id, "interaction") for item_id in reversed(request.history)]
    stored = sorted(known.events, key=_WHEN, reverse=True)
    return told + [(event.item_id, event.type) for event in stored]


def _hidden(
    assortment: Assortment,
    request: RecommendationRequest,
    known: KnownUser,
    events: RowHistory,
) -> NDArray[np.int64]:
    """Rows that must not be returned: excluded, unwanted, and where asked for already seen."""
    rows = assortment.rows([*request.exclude, *known.hidden])
    if request.exclude_seen:
        rows += [row for row, _ in events.met if row >= 0]
    else:
        rows += [row for row, kind in events.met if row >= 0 and kind in NEGATIVE_SIGNALS]
    return np.array(rows, np.int64)


def _fetched(served: Served, k: int) -> int:
    if served.rules.type_caps or served.rules.diversity:
        k *= CHOICE_PER_K
    return max(served.assortment.edition.scoring.fetched(k), k)


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


def _answered(
    served: Served,
    request: RecommendationRequest,
    candidates: Candidates,
    number: int,
    *,
    histories: sp.csr_matrix,
    place: int,
    history: list[tuple[str, str]],
    features: Mapping[str, Any],
) -> Recommendation:
    assortment = served.assortment
    chosen = _chosen(served, request.k, candidates, number)
    found = candidates.rows[number][chosen]
    rows: list[int] = found.tolist()
    ranked = candidates.scores[number][chosen]
    scores: list[float] = ranked.astype(np.float64).round(SCORE_DECIMALS).tolist()
    if request.explain:
        reasons = _reasons(assortment, histories[place], found)
        corrections = _corrections(served, candidates, number, chosen)
        items = orjson.dumps(
            [
                item | {"reasons": reasons[at], "corrections": corrections[at]}
                for at, item in enumerate(assortment.described(rows, scores))
            ]
        )
    else:
        items = assortment.written(found, ranked)
    return Recommendation(
        item_ids=assortment.item_ids(rows),
        scores=scores,
        items=items,
        personalised=bool(histories.indptr[place + 1] > histories.indptr[place]),
        unknown=[each for each in request.history if assortment.row(each) < 0],
        user=candidates.users[number],
        rows=found,
        uncorrected=_uncorrected(candidates, number, chosen),
        history=history,
        features=features,
    )


def _uncorrected(
    candidates: Candidates, number: int, chosen: NDArray[np.int64] | slice
) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = candidates.scores[number][chosen].copy()
    for moved in candidates.moved.values():
        scores -= moved[number][chosen]
    return scores


def _corrections(
    served: Served, candidates: Candidates, number: int, chosen: NDArray[np.int64] | slice
) -> list[list[dict[str, Any]]]:
    """Per item, what each stage added, and of the memory how many errors it heard."""
    moved = {name: each[number][chosen].tolist() for name, each in candidates.moved.items()}
    rows = candidates.rows[number][chosen]
    heard = {
        stage.name: stage.heard(candidates.users[number], rows).tolist()
        for stage in served.stages
        if isinstance(stage, MemoryStage) and stage.name in moved and len(rows)
    }
    return [
        [
            {"by": name, "added": added[at]}
            | ({"errors": heard[name][at]} if name in heard else {})
            for name, added in moved.items()
            if added[at]
        ]
        for at in range(len(rows))
    ]


def _chosen(
    served: Served, k: int, candidates: Candidates, number: int
) -> NDArray[np.int64] | slice:
    """Places of the candidates that make the list."""
    rules, rows = served.rules, candidates.rows[number]
    n_found = int((rows >= 0).sum())
    if not rules.type_caps and not rules.diversity:
        return slice(0, min(k, n_found))
    places = np.arange(n_found)
    if rules.diversity and n_found:
        wanted = n_found if rules.type_caps else k
        places = maximal_marginal_relevance(
            candidates.scores[number][:n_found],
            candidates.assortment.vectors(rows[:n_found]),
            diversity=rules.diversity,
            k=min(wanted, CHOICE_PER_K * k),
        )
    if rules.type_caps:
        types = candidates.assortment.item_types(rows[places].tolist())
        places = places[capped(types, rules.type_caps, k)]
    return places[:k]


def _reasons(
    assortment: Assortment, history: sp.csr_matrix, rows: NDArray[np.int64]
) -> list[list[dict[str, Any]]]:
    """Per item the history items that brought it, the strongest first."""
    if history.nnz == 0 or len(rows) == 0:
        return [[] for _ in rows]
    sources, parts = assortment.edition.reasons(history, assortment.vectors(rows), rows)
    explained = []
    for shares in parts:
        best = [place for place in np.argsort(-shares)[:MAX_REASONS] if shares[place] > 0]
        named = [int(sources[place]) for place in best]
        explained.append(
            [
                {"item_id": item_id, "title": title, "contribution": float(shares[place])}
                for item_id, title, place in zip(
                    assortment.item_ids(named), assortment.titles(named), best, strict=True
                )
            ]
        )
    return explained
