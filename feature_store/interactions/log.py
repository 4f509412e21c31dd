"""The interaction log as arrays: who did what to which row, and when."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.catalogue import Catalogue


@dataclass(frozen=True)
class InteractionLog:
    """Interactions sorted by user, then time, then the order in which they were recorded.

    Attributes:
        user_ids: (n_users,) id of each user row, sorted.
        n_items: rows of the catalogue.
        user: (n,) int64 user row.
        item: (n,) int64 catalogue row.
        timestamp_ms: (n,) int64 milliseconds since the epoch, or None when the data have no time.
        signal: (n,) type of each interaction.
        weight: (n,) float32, above 0.
        split: (n,) published split of each interaction, or None.
    """

    user_ids: tuple[str, ...]
    n_items: int
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64] | None
    signal: NDArray[np.str_]
    weight: NDArray[np.float32]
    split: NDArray[np.str_] | None = None

    @classmethod
    def from_table(cls, interactions: pl.DataFrame, catalogue: Catalogue) -> InteractionLog:
        """Encode an `interactions` table.

        Raises:
            ValueError: an interaction with an item that the catalogue lacks.
        """
        users = interactions.select(pl.col("user_id").unique().sort()).with_row_index("user")
        items = pl.DataFrame({"item_id": catalogue.item_ids}).with_row_index("item")
        table = (
            interactions.with_row_index("order")
            .join(users, on="user_id", how="left")
            .join(items, on="item_id", how="left")
            .sort("user", "timestamp", "order", nulls_last=False)
        )
        if missing := table["item"].null_count():
            raise ValueError(f"{missing} interactions name an item that the catalogue lacks")
        timed = table["timestamp"].null_count() == 0 and table.height > 0
        return cls(
            user_ids=tuple(users["user_id"].to_list()),
            n_items=len(catalogue),
            user=table["user"].to_numpy().astype(np.int64),
            item=table["item"].to_numpy().astype(np.int64),
            timestamp_ms=table["timestamp"].dt.epoch("ms").to_numpy() if timed else None,
            signal=table["type"].to_numpy().astype(np.str_),
            weight=table["weight"].to_numpy().astype(np.float32),
            split=table["split"].to_numpy().astype(np.str_) if "split" in table.columns else None,
        )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Number of user rows."""
        return len(self.user_ids)

    def take(self, kept: NDArray[np.bool_]) -> InteractionLog:
        """The interactions where `kept` (n,); the user rows stay."""
        return InteractionLog(
            user_ids=self.user_ids,
            n_items=self.n_items,
            user=self.user[kept],
            item=self.item[kept],
            timestamp_ms=None if self.timestamp_ms is None else self.timestamp_ms[kept],
            signal=self.signal[kept],
            weight=self.weight[kept],
            split=None if self.split is None else self.split[kept],
        )

    def signals(self, kinds: Collection[str]) -> NDArray[np.bool_]:
        """(n,) which interactions have one of these types."""
        return np.isin(self.signal, list(kinds))

    def matrix(self) -> sp.csr_matrix:
        """(n_users, n_items) float32, 1 where the user met the item at all."""
        shape = (self.n_users, self.n_items)
        ones = np.ones(len(self), np.float32)
        matrix = sp.csr_matrix((ones, (self.user, self.item)), shape=shape)
        matrix.data[:] = 1.0
        return matrix

    def histories(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """(user id, positions of the user's interactions in time order), for users with any."""
        bounds = np.searchsorted(self.user, np.arange(self.n_users + 1))
        for row, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if stop > start:
                yield self.user_ids[row], np.arange(start, stop)
