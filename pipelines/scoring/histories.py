"""Where a batch job finds what its users did: sorted-out tables, or the online store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.interactions.catalogue import Catalogue
from feature_store.online import OnlineStore

EVENTS = {"user": pl.Int64, "item": pl.Int64, "type": pl.String}


@dataclass(frozen=True)
class Known:
    """What is known of B users.

    Attributes:
        events: `user` (place among the B), `item` (catalogue row, -1 for an unknown one), `type`;
            each user's in time order, oldest first.
        features: (B,) as in the users table.
        unwanted: (user, item) of what a user does not want, also where the history forgot it.
    """

    events: pl.DataFrame
    features: Sequence[dict[str, Any]]
    unwanted: tuple[NDArray[np.int64], NDArray[np.int64]] = field(
        default_factory=lambda: (np.zeros(0, np.int64), np.zeros(0, np.int64))
    )


class Histories(Protocol):
    """Knows users."""

    def of(self, user_ids: Sequence[str], *, first: int) -> Known:
        """What is known of these users, of whom the first is number `first` of the unit."""


class OnlineHistories:
    """Histories of the online store, one round trip for each call."""

    def __init__(self, store: OnlineStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue

    def of(self, user_ids: Sequence[str], *, first: int) -> Known:
        """See `Histories`.

        Raises:
            redis.RedisError: the server is gone.
        """
        del first  # the store knows users by their ids
        found = self._store.users(user_ids)
        rows: list[tuple[int, int, str]] = []
        unwanted: list[tuple[int, int]] = []
        row_of = self._catalogue.row_of
        for user, known in enumerate(found):
            # Feedback can arrive late: what counts is when it happened, as in training.
            oldest_first = known.events[::-1]
            oldest_first.sort(key=lambda event: event.timestamp_ms)
            rows += [(user, row_of.get(event.item_id, -1), event.type) for event in oldest_first]
            unwanted += [(user, row_of[each]) for each in known.hidden if each in row_of]
        users, items = np.array(unwanted, np.int64).reshape(-1, 2).T
        return Known(
            events=pl.DataFrame(rows, schema=EVENTS, orient="row"),
            features=[known.features for known in found],
            unwanted=(users, items),
        )


class TableHistories:
    """Histories of one unit's users, in memory.

    Args:
        users: `user_id` and `user`, the numbers of the unit's users from 0 on.
        events: `user_id`, `item` (catalogue row), `type`, `timestamp`, in the order of the log.
        features: rows of the users table, one for a user at most; None where there is no table.
    """

    def __init__(
        self, users: pl.DataFrame, events: pl.DataFrame | None, features: pl.DataFrame | None
    ) -> None:
        self._events = pl.DataFrame(schema=EVENTS)
        if events is not None:
            self._events = (
                events.lazy()
                .join(users.lazy(), on="user_id", how="inner", maintain_order="left")
                .sort("user", "timestamp", maintain_order=True)
                .select(pl.col("user").cast(pl.Int64), "item", "type")
                .collect()
            )
        numbers = np.arange(users.height + 1)
        self._begin = np.searchsorted(self._events["user"].to_numpy(), numbers)
        self._features = (
            None
            if features is None
            else users.join(
                features.unique("user_id", keep="first"),
                on="user_id",
                how="left",
                maintain_order="left",
            ).drop("user_id", "user")
        )

    def of(self, user_ids: Sequence[str], *, first: int) -> Known:
        """See `Histories`."""
        begin, end = self._begin[first], self._begin[first + len(user_ids)]
        events = self._events.slice(begin, end - begin)
        features: Sequence[dict[str, Any]] = [{}] * len(user_ids)
        if self._features is not None:
            features = self._features.slice(first, len(user_ids)).to_dicts()
        return Known(events.with_columns(pl.col("user") - first), features)
