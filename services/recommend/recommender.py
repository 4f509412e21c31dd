"""From a request to a ranked list with its reasons."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.editions import RecommenderEdition
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.online import Event
from services.recommend.problems import ProblemError
from services.recommend.schemas import Reason, RecommendationRequest, RecommendedItem
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser

MAX_REASONS = 3


class Recommendation:
    """One answered request, before it is given an id."""

    def __init__(self, items: list[RecommendedItem], *, personalised: bool, unknown: list[str]):
        self.items = items
        self.personalised = personalised
        self.unknown = unknown


def recommend(
    edition: RecommenderEdition,
    request: RecommendationRequest,
    known: KnownUser,
    telemetry: Telemetry,
) -> Recommendation:
    """Rank the catalogue for one request.

    Raises:
        ProblemError: 422 for an item type that the catalogue lacks.
    """
    # Feedback can arrive late: what counts is when it happened, as in training.
    oldest_first = reversed(known.events)
    stored = sorted(oldest_first, key=lambda event: event.timestamp_ms)
    events = [*stored, *(Event(item_id, 0) for item_id in request.history)]
    rows = edition.catalogue.rows([event.item_id for event in events])
    with telemetry.timed("tower"):
        history = _history(edition, events, rows)
        features = edition.user_features.encode([request.features or known.features])
    with telemetry.timed("search"):
        dismissed = rows[[event.type in NEGATIVE_SIGNALS for event in events]]
        allowed = _allowed(edition, request, rows, dismissed)
        scores, found = edition.recommend(history, features, k=request.k, allowed=allowed)
    kept = found[0] >= 0
    with telemetry.timed("explain"):
        items = describe(edition, found[0][kept], scores[0][kept])
        if request.explain:
            items = _explained(edition, items, history, found[0][kept])
    return Recommendation(
        items,
        personalised=history.nnz > 0,
        unknown=[each for each in request.history if each not in edition.catalogue.row_of],
    )


def describe(
    edition: RecommenderEdition, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[RecommendedItem]:
    """The items of `rows` with their titles and scores."""
    return [
        RecommendedItem(
            item_id=edition.catalogue.item_ids[row],
            item_type=edition.catalogue.item_types[row],
            title=title_of(edition, row),
            score=float(score),
        )
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
    ]


def title_of(edition: RecommenderEdition, row: int) -> str | None:
    """The first text column of an item, which is its title by convention."""
    columns = edition.content.text_columns
    return edition.items[columns[0]][row] if columns else None


def allowed_types(
    edition: RecommenderEdition, item_types: list[str] | None
) -> NDArray[np.bool_] | None:
    """(n_items,) the rows of these types, or None for all.

    Raises:
        ProblemError: 422 for a type that the catalogue lacks.
    """
    if item_types is None:
        return None
    try:
        return edition.catalogue.mask(item_types)
    except ValueError as error:
        raise ProblemError(status=422, title="Unknown item type", detail=str(error)) from error


def _history(
    edition: RecommenderEdition, events: list[Event], rows: NDArray[np.int64]
) -> sp.csr_matrix:
    signals = np.array([event.type for event in events], dtype=np.str_)
    items, weights = edition.history.weigh(rows, signals)
    return sp.csr_matrix(
        (weights, items, [0, len(items)]), shape=(1, len(edition.catalogue)), dtype=np.float32
    )


def _allowed(
    edition: RecommenderEdition,
    request: RecommendationRequest,
    seen: NDArray[np.int64],
    dismissed: NDArray[np.int64],
) -> NDArray[np.bool_] | None:
    allowed = allowed_types(edition, request.item_types)
    hidden = np.concatenate([edition.catalogue.rows(request.exclude), dismissed])
    if request.exclude_seen:
        hidden = np.concatenate([hidden, seen])
    hidden = hidden[hidden >= 0]
    if len(hidden) == 0:
        return allowed
    allowed = np.ones(len(edition.catalogue), np.bool_) if allowed is None else allowed
    allowed[hidden] = False
    return allowed


def _explained(
    edition: RecommenderEdition,
    items: list[RecommendedItem],
    history: sp.csr_matrix,
    rows: NDArray[np.int64],
) -> list[RecommendedItem]:
    if history.nnz == 0 or not items:
        return [item.model_copy(update={"reasons": []}) for item in items]
    sources, parts = edition.reasons(history, rows)
    explained = []
    for item, shares in zip(items, parts, strict=True):
        best = [place for place in np.argsort(-shares)[:MAX_REASONS] if shares[place] > 0]
        reasons = [
            Reason(
                item_id=edition.catalogue.item_ids[sources[place]],
                title=title_of(edition, int(sources[place])),
                contribution=float(shares[place]),
            )
            for place in best
        ]
        explained.append(item.model_copy(update={"reasons": reasons}))
    return explained
