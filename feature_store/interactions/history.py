"""A user's recent history, the same in training and in serving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from feature_store.interactions.log import InteractionLog

# Signals that say "not this": they hide an item, and take back what was said for it before.
NEGATIVE_SIGNALS = frozenset({"dismiss", "dislike", "skip"})


class HistoryPolicy(BaseModel):
    """Which past interactions speak for a user, and how loudly.

    Attributes:
        max_items: only the newest so many distinct items.
        half_life_items: an item that many places before the newest weighs half; None weighs all
            alike.
        weak_signals: interaction types that weigh `weak_weight` (follows, previews, views).
        weak_weight: weight of a weak signal, in (0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_items: int = Field(1_000, ge=1)
    half_life_items: float | None = Field(None, gt=0)
    weak_signals: tuple[str, ...] = ()
    weak_weight: float = Field(0.5, gt=0, le=1)

    def weigh(
        self, items: NDArray[np.int64], signals: Sequence[str] | NDArray[np.str_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One user's items, newest first, and their weights.

        Args:
            items: (n,) catalogue rows in time order, oldest first; -1 is an unknown item.
            signals: (n,) interaction types.

        Returns:
            rows (m,) int64 distinct, newest first; weights (m,) float32 in (0, 1].
        """
        newest_first = items[::-1]
        loud = np.where(np.isin(signals, self.weak_signals), self.weak_weight, 1.0)[::-1]
        negative = np.isin(signals, list(NEGATIVE_SIGNALS))[::-1]
        last_word = np.zeros(len(items), np.bool_)
        last_word[np.unique(newest_first, return_index=True)[1]] = True
        refused = newest_first[negative & last_word]
        speaks = (newest_first >= 0) & ~negative & ~np.isin(newest_first, refused)
        newest_first, loud = newest_first[speaks], loud[speaks]
        rows, first = np.unique(newest_first, return_index=True)
        strongest = np.zeros(len(rows))
        np.maximum.at(strongest, np.searchsorted(rows, newest_first), loud)
        order = np.argsort(first)[: self.max_items]
        age = np.arange(len(order), dtype=np.float64)
        decay = 1.0 if self.half_life_items is None else 0.5 ** (age / self.half_life_items)
        return rows[order], (strongest[order] * decay).astype(np.float32)

    def weigh_newest_first(
        self, events: Iterable[tuple[int, str]]
    ) -> tuple[list[int], list[float]]:
        """`weigh` for one short history on the request path, of which it is the reference.

        Args:
            events: (catalogue row, interaction type), newest first; row -1 is an unknown item.

        Returns:
            distinct rows, newest first, and their weights.
        """
        strongest: dict[int, float] = {}  # in the order of the newest mention
        refused: set[int] = set()
        weak = self.weak_signals
        for row, signal in events:
            if row < 0 or row in refused:
                continue
            if signal in NEGATIVE_SIGNALS:
                if row not in strongest:
                    refused.add(row)
                continue
            loud = self.weak_weight if signal in weak else 1.0
            if loud > strongest.get(row, 0.0):
                strongest[row] = loud
        rows = list(strongest)[: self.max_items]
        weights = list(strongest.values())[: self.max_items]
        if self.half_life_items is not None:
            half_life = self.half_life_items
            weights = [w * 0.5 ** (age / half_life) for age, w in enumerate(weights)]
        return rows, weights

    def weigh_table(self, events: pl.DataFrame, *, users: int, items: int) -> sp.csr_matrix:
        """`weigh` for many users at once, of which it is the reference.

        Args:
            events: columns `user` (row of the result), `item` (catalogue row, -1 is an unknown
                item) and `type`; each user's events in time order, oldest first.
            users, items: the shape of the result.

        Returns:
            (users, items) float32; a row's entries are newest first.
        """
        kinds = events["type"].unique().to_list()
        weak = dict.fromkeys(self.weak_signals, self.weak_weight)
        loudness = {
            kind: 0.0 if kind in NEGATIVE_SIGNALS else weak.get(kind, 1.0) for kind in kinds
        }
        user, item = (events[name].to_numpy().astype(np.int64) for name in ("user", "item"))
        loud = events["type"].replace_strict(loudness, return_dtype=pl.Float64).to_numpy()
        at = np.flatnonzero(item >= 0)
        pair = user[at] * items + item[at]
        order = np.argsort(pair, kind="stable")  # one pair's mentions, oldest first
        at, pair, loud = at[order], pair[order], loud[at[order]]
        begin = np.flatnonzero(np.diff(pair, prepend=-1))
        last = np.append(begin, len(pair))[1:] - 1
        speaks = loud[last] > 0
        strongest = np.maximum.reduceat(loud, begin)[speaks] if len(begin) else loud
        newest = at[last[speaks]]  # the last word is none against the item
        pair = pair[begin[speaks]]
        user, item = pair // items, pair % items
        newest_first = np.lexsort((-newest, user))
        user, item, strongest = user[newest_first], item[newest_first], strongest[newest_first]
        first = np.searchsorted(user, np.arange(users))
        age = np.arange(len(user)) - first[user]
        kept = age < self.max_items
        weights = strongest[kept] * 0.5 ** (age[kept] / (self.half_life_items or np.inf))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(user[kept], minlength=users))])
        entries = (weights.astype(np.float32), item[kept].astype(np.int32), indptr)
        return sp.csr_matrix(entries, shape=(users, items))

    def matrix(self, log: InteractionLog) -> sp.csr_matrix:
        """(n_users, n_items) float32: `weigh` of every user of the log."""
        users, rows, weights = [], [], []
        bounds = np.searchsorted(log.user, np.arange(log.n_users + 1))
        for user in np.unique(log.user):
            span = slice(bounds[user], bounds[user + 1])
            items, weight = self.weigh(log.item[span], log.signal[span])
            users.append(np.full(len(items), user))
            rows.append(items)
            weights.append(weight)
        if not users:
            return sp.csr_matrix((log.n_users, log.n_items), dtype=np.float32)
        entries = (np.concatenate(weights), (np.concatenate(users), np.concatenate(rows)))
        return sp.csr_matrix(entries, shape=(log.n_users, log.n_items), dtype=np.float32)
