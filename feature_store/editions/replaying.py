"""Labelled events as an edition of the recommender predicts them: entries of its error memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from feature_store.editions.memory_keys import MemoryKeys, probabilities
from feature_store.editions.recommender import RecommenderEdition
from feature_store.error_memory import ErrorBatch
from feature_store.error_memory.events import LabelledEvent


def pack_history(history: Sequence[tuple[str, str]]) -> bytes:
    """(item id, type) newest first, as `pack_case` wants them."""
    # A copy: orjson leaves its buffer at up to five times what it wrote, and this is kept.
    return bytes(memoryview(orjson.dumps(history)))


def pack_case(history: bytes, features: Mapping[str, Any]) -> bytes:
    """What the model saw of a user: a packed history, and features."""
    return orjson.dumps((orjson.Fragment(history), features))


def unpack_case(case: bytes) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Inverse of `pack_case`."""
    history, features = orjson.loads(case)
    return [(item_id, kind) for item_id, kind in history], features


class RecommenderReplay:
    """Reads cases with an edition; see `feature_store.error_memory.events.Encode`."""

    def __init__(self, edition: RecommenderEdition, keys: MemoryKeys) -> None:
        """`keys`: of the edition's items."""
        self._edition, self._keys = edition, keys

    def __call__(self, events: Sequence[LabelledEvent]) -> ErrorBatch | None:
        """Entries of the items that the edition knows; a probability is relative to its own best
        item for that user."""
        edition = self._edition
        row_of = edition.catalogue.row_of
        cases = [unpack_case(each.case) for each in events]
        histories = edition.weigh(
            [[(row_of.get(item, -1), kind) for item, kind in history] for history, _ in cases]
        )
        features = edition.user_features.encode([each for _, each in cases])
        users = edition.user_vectors(histories, features)
        shares = edition.popularity_share(histories, features)
        best, _ = edition.retrieval.retrieve(
            users, shares, histories, n=edition.retrieval.fetched(1), k=1
        )
        told = [
            (place, name, row_of[name], float(label))
            for place, event in enumerate(events)
            for name, label in event.labels.items()
            if name in row_of and not isinstance(label, str)
        ]
        if not told:
            return None
        at = np.array([place for place, *_ in told], np.int64)
        rows = np.array([row for _, _, row, _ in told], np.int64)
        scores = edition.pair_scores(users, shares, histories, who=at, rows=rows)
        return ErrorBatch.of(
            self._keys(users[at], rows),
            np.array([label for *_, label in told], np.float32)[:, None],
            probabilities(scores, best[at, 0]),
            weights=np.array([events[place].weight for place in at], np.float32),
            time_ms=np.array([events[place].time_ms for place in at], np.int64),
            sources=np.array([events[place].source for place in at], np.uint64),
            feedback_ids=np.array([events[p].ids[name] for p, name, *_ in told], np.uint64),
        )
