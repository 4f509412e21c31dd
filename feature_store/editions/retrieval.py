"""From user vectors to the best items: search, neighbour lists, and what is popular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.neighbour_lists import REACHED, NeighbourLists
from feature_store.editions.popularity_share import blend
from feature_store.editions.scoring import Scoring
from feature_store.interactions.history_rows import SparseRows
from feature_store.vectors import RowFilter, SideIndex, VectorIndex

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Retrieval:
    """The parts of an edition that rank its items for vectors; see `RecommenderEdition`."""

    item_vectors: FloatArray
    bias: FloatArray
    popularity: FloatArray
    scoring: Scoring
    index: VectorIndex | SideIndex
    lists: NeighbourLists | None

    @cached_property
    def log_popularity(self) -> FloatArray:
        """(n,) log(1 + popularity)."""
        return np.log1p(self.popularity)

    @cached_property
    def _offset(self) -> FloatArray:
        """(n,) what search adds to inner products: the sum is the score times its temperature."""
        return self.bias * np.float32(self.scoring.temperature)

    def fetched(self, k: int) -> int:
        """How many rows to fetch for a list of `k`: no more where the index finds the best by the
        whole score."""
        whole = self.index.best_by_sum and self.lists is None
        return k if whole else self.scoring.fetched(k)

    def retrieve(
        self,
        users: FloatArray,
        shares: FloatArray,
        histories: SparseRows,
        *,
        n: int,
        k: int,
        allowed: RowFilter | NDArray[np.bool_] | None = None,
        hidden: Sequence[IntArray] | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """The `n` best by score of the nearest items and those that lists reach: scores and rows
        (B, ≤n), best first.

        Args:
            users: (B, d + r) vectors.
            shares: (B,) how far each list leans on popularity; above 0, the most popular items
                compete with the nearest, and at 1 they are the list.
            histories: (B, n_items) that both are of, for the neighbour lists.
            n: how many are fetched; at most as many as there are.
            k: so many are found whenever they exist.
            allowed: rows that may be returned; None allows all.
            hidden: per user, rows that must not be returned.

        Returns:
            Where fewer than n are allowed the tail is -inf and -1.
        """
        n = min(n, len(self.index))
        if isinstance(allowed, np.ndarray):
            allowed = RowFilter(allowed)
        products, rows = self.index.search(
            users, n, offset=self._offset, allowed=allowed, hidden=hidden, at_least=k
        )
        scores = products / np.float32(self.scoring.temperature)  # -inf stays -inf
        leaning = np.flatnonzero(shares).tolist()
        if self.lists is None and not leaning:
            return scores, rows
        if self.lists is not None:
            scores, rows = self._united(
                self.lists, scores, rows, users, histories, max(REACHED, 2 * k), allowed, hidden
            )
        for user in leaning:
            popular = self._most_popular(n, allowed, None if hidden is None else hidden[user])
            scores[user], rows[user] = self._leaning(
                users[user], float(shares[user]), scores[user], rows[user], popular, histories, user
            )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        each = np.arange(len(order))[:, None]
        return scores[each, order], rows[each, order]

    def _united(
        self,
        lists: NeighbourLists,
        scores: FloatArray,
        rows: IntArray,
        users: FloatArray,
        histories: SparseRows,
        reach: int,
        allowed: RowFilter | None,
        hidden: Sequence[IntArray] | None,
    ) -> tuple[FloatArray, IntArray]:
        """What search found and what lists reach, by the sum of both scores."""
        masks = [] if allowed is None else [allowed.mask]
        if isinstance(self.index, SideIndex):
            masks.append(self.index.available)
        return lists.unite(
            scores,
            rows,
            histories,
            users=users,
            item_vectors=self.item_vectors,
            bias=self.bias,
            temperature=self.scoring.temperature,
            reach=reach,
            allowed=masks,
            hidden=hidden,
        )

    def _leaning(
        self,
        user: FloatArray,
        share: float,
        scores: FloatArray,
        rows: IntArray,
        popular: IntArray,
        histories: SparseRows,
        at: int,
    ) -> tuple[FloatArray, IntArray]:
        """As many as `rows` (n,) of those and the `popular` ones, by the blended score of the user
        `at` of `histories`."""
        n = len(rows)
        if share < 1:
            # An item that was added since has no popularity: search alone brings it.
            popular = popular[(popular < len(self.item_vectors)) & ~np.isin(popular, rows)]
            own = self.item_vectors[popular] @ user / self.scoring.temperature + self.bias[popular]
            if self.lists is not None:
                own += self.lists.of_pairs(histories, np.full(len(popular), at), popular)
            scores, rows = np.concatenate([scores, own]), np.concatenate([rows, popular])
        else:
            missing = n - len(popular)
            scores = np.concatenate([np.zeros(len(popular)), np.full(missing, -np.inf)])
            rows = np.concatenate([popular, np.full(missing, -1)])
        blended = blend(scores, self.log_popularity[rows], share)
        blended[rows < 0] = -np.inf
        best = np.argsort(-blended, kind="stable")[:n]
        return blended[best], rows[best]

    def _most_popular(self, n: int, allowed: RowFilter | None, hidden: IntArray | None) -> IntArray:
        order = self._by_popularity
        if allowed is not None:
            order = order[allowed.mask[order]]
        if hidden is None or len(hidden) == 0:
            return order[:n]
        order = order[: n + len(hidden)]
        return order[~np.isin(order, hidden)][:n]

    @cached_property
    def _by_popularity(self) -> IntArray:
        order = np.argsort(-self.popularity, kind="stable")
        available = self.index.available if isinstance(self.index, SideIndex) else None
        return order if available is None else order[available[order]]
