"""What an edition says of users: their best items, or the scores of given pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.editions.corrections import CORRECTED, list_offsets
from feature_store.editions.memory_keys import MemoryKeys
from feature_store.editions.recommender import RecommenderEdition
from feature_store.error_memory.replica import MemoryReplica
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.vectors.index import top
from pipelines.scoring.histories import Histories, Known, OnlineHistories, TableHistories
from pipelines.scoring.output import UnitReport
from pipelines.scoring.staging import Staged

EXACT_ITEMS = 1 << 16  # a larger catalogue is searched with the edition's index
SCORES_AT_ONCE = 1 << 24  # 64 MB of scores, and as much again twice to order them

# What is sorted out by user, and the column of ids as the input has them, where users are kept
# under other names.
ROWS, EVENTS, FEATURES = "rows", "events", "features"
GIVEN = "#given"
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class UserBlock:
    """Rows of the input, sorted by user.

    Attributes:
        rows: `user` (place in `users`), `user_id`, and for pairs `item_id` and `item`.
        users: their ids.
        first: number of the first of them in the unit.
    """

    rows: pl.DataFrame
    users: pl.Series
    first: int
    histories: Histories

    def __len__(self) -> int:
        return self.rows.height


class UserScorer:
    """A recommender edition over buckets of users.

    Args:
        answer: the rows that users and what is known of them lead to.
        staged: the input, by bucket.
        online: where histories come from; None takes them from `staged`.
    """

    def __init__(
        self,
        answer: Ranking | PairScores,
        *,
        version: str,
        staged: Staged,
        online: OnlineHistories | None,
        block_rows: int,
    ) -> None:
        self._answer = answer
        self._version = version
        self._staged = staged
        self._online = online
        self._block_rows = block_rows

    def read(self, unit: int, report: UnitReport) -> Iterator[UserBlock]:
        """The bucket's rows, in the order of the input; a user who is asked for twice counts once,
        a pair as often as it is there."""
        rows = self._staged.read(ROWS, unit)
        if rows is None:
            return
        if isinstance(self._answer, Ranking):
            distinct = rows.unique("user_id", keep="first", maintain_order=True)
            report.count("duplicates", rows.height - distinct.height)
            rows = distinct
        users = rows.select(pl.col("user_id").unique(maintain_order=True)).with_row_index("user")
        histories = self._online or self._of_tables(unit, rows, users)
        rows = rows.join(users, on="user_id", maintain_order="left").sort(
            "user", maintain_order=True
        )
        for begin in range(0, rows.height, self._block_rows):
            some = rows.slice(begin, self._block_rows)
            first, last = int(some["user"][0]), int(some["user"][-1])
            yield UserBlock(
                some.with_columns(pl.col("user") - first),
                users["user_id"].slice(first, last + 1 - first),
                first,
                histories,
            )

    def score(self, block: UserBlock) -> pl.DataFrame:
        """One row for each of the block's."""
        known = block.histories.of(block.users.to_list(), first=block.first)
        answer = self._answer(block, known)
        if GIVEN in block.rows.columns:  # a row of the answer is one of the block
            answer = answer.with_columns(user_id=block.rows[GIVEN])
        return answer.with_columns(model_version=pl.lit(self._version))

    def _of_tables(self, unit: int, rows: pl.DataFrame, users: pl.DataFrame) -> TableHistories:
        features = self._staged.read(FEATURES, unit)
        if features is None:  # the rows may bring features of their own
            features = rows.drop("item_id", "item", GIVEN, strict=False)
        return TableHistories(users, self._staged.read(EVENTS, unit), features)


class Ranking:
    """The best `k` items of users by exact score, or by the index where the catalogue is large.

    Args:
        allowed: (n_items,) rows that may be in a list; None allows all.
        exclude_seen: leave out what is in a user's history.
        memory: corrects the lists; None leaves them the edition's own.
    """

    def __init__(
        self,
        edition: RecommenderEdition,
        *,
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        exclude_seen: bool = True,
        memory: MemoryReplica | None = None,
    ) -> None:
        self._edition = edition
        self._k = min(k, len(edition.catalogue))
        self._memory = memory
        self._keys = None if memory is None else MemoryKeys(edition.item_vectors)
        # A correction may lift an item from below the list.
        deeper = self._k if memory is None else max(self._k, CORRECTED)
        self._depth = min(deeper, len(edition.catalogue))
        self._allowed = allowed
        self._exclude_seen = exclude_seen
        self._item_ids = pl.Series(edition.catalogue.item_ids, dtype=pl.String)

    def __call__(self, block: UserBlock, known: Known) -> pl.DataFrame:
        """`user_id`, `item_ids` and `scores`, best first, and whether there was a history."""
        histories, features = _inputs(self._edition, known)
        scores, found = self._best(histories, features, self._hidden(known))
        scores, found = self._corrected(histories, features, scores, found)
        return pl.DataFrame(
            {
                "user_id": block.users,
                "item_ids": _lists(self._item_ids.gather(found[found >= 0]), found >= 0),
                "scores": _lists(pl.Series(scores[found >= 0]), found >= 0),
                "personalised": np.diff(histories.indptr) > 0,
            }
        )

    def _best(
        self, histories: sp.csr_matrix, features: FloatArray, hidden: tuple[IntArray, IntArray]
    ) -> tuple[FloatArray, IntArray]:
        items = len(self._edition.catalogue)
        if items > EXACT_ITEMS:
            return self._search(histories, features, hidden)
        parts, users = [], max(SCORES_AT_ONCE // items, 1)
        for begin in range(0, histories.shape[0], users):
            end = begin + users
            mine = (hidden[0] >= begin) & (hidden[0] < end)
            some = hidden[0][mine] - begin, hidden[1][mine]
            parts.append(self._exactly(histories[begin:end], features[begin:end], some))
        scores, rows = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _corrected(
        self, histories: sp.csr_matrix, features: FloatArray, scores: FloatArray, rows: IntArray
    ) -> tuple[FloatArray, IntArray]:
        """The first `k` once the memory has moved what it has an opinion on."""
        if self._memory is not None and self._keys is not None:
            users = self._edition.user_vectors(histories, features)
            moved = list_offsets(self._memory, self._keys, users, rows, scores)
            if moved is not None:
                scores = scores + moved
                order = np.argsort(-scores, axis=1, kind="stable")
                scores = np.take_along_axis(scores, order, axis=1)
                rows = np.take_along_axis(rows, order, axis=1)
        return scores[:, : self._k], rows[:, : self._k]

    def _exactly(
        self, histories: sp.csr_matrix, features: FloatArray, hidden: tuple[IntArray, IntArray]
    ) -> tuple[FloatArray, IntArray]:
        scores = self._edition.scores(histories, features)
        if self._allowed is not None:
            scores[:, ~self._allowed] = -np.inf
        scores[hidden] = -np.inf
        best, rows = top(scores, self._depth)
        return best, np.where(np.isneginf(best), -1, rows)

    def _search(
        self, histories: sp.csr_matrix, features: FloatArray, hidden: tuple[IntArray, IntArray]
    ) -> tuple[FloatArray, IntArray]:
        edition, users = self._edition, histories.shape[0]
        order = np.argsort(hidden[0], kind="stable")
        bounds = np.cumsum(np.bincount(hidden[0], minlength=users))[:-1]
        scores, rows = edition.retrieval.retrieve(
            edition.user_vectors(histories, features),
            edition.popularity_share(histories, features),
            histories,
            n=edition.retrieval.fetched(self._depth),
            k=self._depth,
            allowed=self._allowed,
            hidden=np.split(hidden[1][order], bounds),
        )
        return scores[:, : self._depth], rows[:, : self._depth]

    def _hidden(self, known: Known) -> tuple[IntArray, IntArray]:
        """(user, item) pairs that must not be in a list."""
        events = known.events.filter(pl.col("item") >= 0)
        if not self._exclude_seen:
            events = events.filter(pl.col("type").is_in(list(NEGATIVE_SIGNALS)))
        users, items = known.unwanted
        return (
            np.concatenate([events["user"].to_numpy().astype(np.int64), users]),
            np.concatenate([events["item"].to_numpy().astype(np.int64), items]),
        )


class PairScores:
    """The exact score of each given pair."""

    def __init__(self, edition: RecommenderEdition) -> None:
        self._edition = edition

    def __call__(self, block: UserBlock, known: Known) -> pl.DataFrame:
        """`user_id`, `item_id`, `score`, and whether there was a history."""
        edition = self._edition
        histories, features = _inputs(edition, known)
        user, item = block.rows["user"].to_numpy(), block.rows["item"].to_numpy()
        users = edition.user_vectors(histories, features)
        shares = edition.popularity_share(histories, features)
        scores = edition.pair_scores(users, shares, histories, who=user, rows=item)
        return block.rows.select("user_id", "item_id").with_columns(
            score=pl.Series(scores),
            personalised=pl.Series((np.diff(histories.indptr) > 0)[user]),
        )


def _inputs(edition: RecommenderEdition, known: Known) -> tuple[sp.csr_matrix, FloatArray]:
    users, items = len(known.features), len(edition.catalogue)
    histories = edition.history.weigh_table(known.events, users=users, items=items)
    return histories, edition.user_features.encode(known.features)


def _lists(values: pl.Series, there: NDArray[np.bool_]) -> pl.Series:
    """`values`, row after row, as one list for each row of `there`."""
    users = np.repeat(np.arange(len(there)), there.sum(axis=1))
    grouped = pl.DataFrame({"user": users, "value": values}).group_by("user", maintain_order=True)
    lists = grouped.agg("value")
    if lists.height == len(there):
        return lists["value"]
    everyone = pl.DataFrame({"user": np.arange(len(there))})
    found = everyone.join(lists, on="user", how="left", maintain_order="left")["value"]
    return found.fill_null(pl.Series([[]], dtype=found.dtype))
