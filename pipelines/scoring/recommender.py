"""The best items of every user, or scores of given pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.editions.corrections import CORRECTED, list_offsets
from feature_store.editions.memory_keys import MemoryKeys
from feature_store.editions.recommender import MODEL_NAME, RecommenderEdition
from feature_store.error_memory.replica import MemoryReplica
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.online import OnlineStore, connect
from feature_store.pseudonyms import Pseudonyms
from feature_store.registry import Registry
from feature_store.vectors.index import top
from pipelines.progress import Bar, Reporter
from pipelines.scoring.histories import Histories, Known, OnlineHistories, TableHistories
from pipelines.scoring.inputs import InputFile, read_rows
from pipelines.scoring.memory import MemorySource, corrected
from pipelines.scoring.output import JobManifest, Output, UnitReport
from pipelines.scoring.staging import BUFFER_BYTES, Staged, bucket_count, stage

USERS_A_BLOCK = 1_024
BUCKET_BYTES = 16 << 20  # of Parquet: some million events
EXACT_ITEMS = 1 << 16  # a larger catalogue is searched with the edition's index
SCORES_AT_ONCE = 1 << 24  # 64 MB of scores, and as much again twice to order them

ROWS, EVENTS, FEATURES = "rows", "events", "features"
GIVEN = "#given"  # a user's id as the input has it, where it is another than the name
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class OnlineSource:
    """The online store that histories come from."""

    url: str
    tenant: str = "default"
    timeout_s: float = 10.0

    def open(self) -> OnlineStore:
        """Connect."""
        return OnlineStore(connect(self.url, timeout_s=self.timeout_s), tenant=self.tenant)


@dataclass(frozen=True)
class TableSource:
    """The tables that histories come from: `interactions`, and `users` where there is one."""

    interactions: InputFile
    users: InputFile | None = None


@dataclass(frozen=True, kw_only=True)
class RecommenderJob:
    """Users or pairs under one edition; a unit is a bucket of users.

    Attributes:
        registry: root of the registry; `cache` holds copies of a remote one's versions.
        reference, version: what was asked for, and what it stands for.
        kind: `users` for the best `k` items of each, `pairs` for a score of each.
        inputs: tables with `user_id`, and for pairs `item_id`.
        histories: where what the users did comes from.
        item_types: only items of these types; None takes all.
        exclude_seen: leave out what is in the history.
        memory: corrects the lists of users; None leaves them the version's own.
        bucket_bytes: of input in a unit, which is held in memory.
        buffer_bytes: of rows that wait to be written while the input is sorted out.
        pseudonyms: what histories name users by; the output names them as the input does.
    """

    registry: str
    cache: Path | None
    reference: str
    version: str
    kind: Literal["users", "pairs"]
    inputs: tuple[InputFile, ...]
    histories: OnlineSource | TableSource
    code_version: str
    k: int = 100
    item_types: tuple[str, ...] | None = None
    exclude_seen: bool = True
    block_rows: int = USERS_A_BLOCK
    bucket_bytes: int = BUCKET_BYTES
    buffer_bytes: int = BUFFER_BYTES
    memory: MemorySource | None = None
    pseudonyms: Pseudonyms | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and self.kind != "users":
            raise ValueError("what is remembered corrects lists: it goes with users, not pairs")

    def __getstate__(self) -> dict[str, Any]:
        # Other machines open what was sorted out by name already: the key stays here.
        return self.__dict__ | {"pseudonyms": None}

    @property
    def manifest(self) -> JobManifest:
        """See `Job`."""
        tables = self.histories if isinstance(self.histories, TableSource) else None
        settings: dict[str, Any] = {
            "histories": "online" if tables is None else "tables",
            "block_rows": self.block_rows,
            "bucket_bytes": self.bucket_bytes,
        }
        settings |= corrected(self.memory)
        if self.pseudonyms is not None:
            settings["user_key"] = self.pseudonyms.key_id
        if self.kind == "users":
            settings |= {
                "k": self.k,
                "item_types": None if self.item_types is None else list(self.item_types),
                "exclude_seen": self.exclude_seen,
            }
        return JobManifest(
            kind=self.kind,
            model=MODEL_NAME,
            reference=self.reference,
            version=self.version,
            settings=settings,
            inputs=(*self.inputs, *self._tables),
            units=self._buckets,
            code_version=self.code_version,
        )

    def prepare(self, version: str, output: Output, report: UnitReport, reporter: Reporter) -> None:
        """Sort the rows, and what the users did, out by user."""
        if self.memory is not None:
            reporter.say(self.memory.describe(MODEL_NAME, version))
        edition = self._edition(version)
        if self.item_types is not None:
            edition.catalogue.mask(self.item_types)  # a type that no item has is refused
        with reporter.bar("sorting input by user", len(self.inputs) + len(self._tables)) as bar:
            sizes = {"buckets": self._buckets, "buffer_bytes": self.buffer_bytes}
            stage(output, ROWS, self._rows(edition, report, bar), **sizes)
            if isinstance(self.histories, TableSource):
                source = self.histories
                events = _events(source.interactions, edition.catalogue)
                stage(output, EVENTS, map(self._named, events), **sizes)
                bar.advance(1)
                if source.users is not None:
                    columns = _feature_columns(edition)
                    users = read_rows(source.users, ("user_id",), optional=columns)
                    stage(output, FEATURES, map(self._named, map(_with_text_ids, users)), **sizes)
                    bar.advance(1)

    def open(self, version: str, output: Output) -> UserScorer:
        """See `Job`."""
        edition = self._edition(version)
        online = (
            OnlineHistories(self.histories.open(), edition.catalogue)
            if isinstance(self.histories, OnlineSource)
            else None
        )
        ranking = Ranking(
            edition,
            k=self.k,
            allowed=None if self.item_types is None else edition.catalogue.mask(self.item_types),
            exclude_seen=self.exclude_seen,
            memory=None if self.memory is None else self.memory.of_lists(version),
        )
        return UserScorer(
            ranking if self.kind == "users" else PairScores(edition),
            version=version,
            staged=Staged(output),
            online=online,
            block_rows=self.block_rows,
        )

    @property
    def _tables(self) -> tuple[InputFile, ...]:
        if not isinstance(self.histories, TableSource):
            return ()
        both = (self.histories.interactions, self.histories.users)
        return tuple(each for each in both if each is not None)

    @property
    def _buckets(self) -> int:
        total = sum(each.bytes for each in (*self.inputs, *self._tables))
        return bucket_count(input_bytes=total, bucket_bytes=self.bucket_bytes)

    def _edition(self, version: str) -> RecommenderEdition:
        directory, _ = Registry(self.registry, cache=self.cache).open(MODEL_NAME, version)
        return RecommenderEdition.load(directory, device="cpu")

    def _rows(
        self, edition: RecommenderEdition, report: UnitReport, bar: Bar
    ) -> Iterator[pl.DataFrame]:
        pairs = self.kind == "pairs"
        required = ("user_id", "item_id") if pairs else ("user_id",)
        items = _rows_of(edition.catalogue)
        for file in self.inputs:
            row = 1
            for read in read_rows(file, required, optional=_feature_columns(edition)):
                chunk = _with_text_ids(read).with_row_index("row", offset=row)
                row += chunk.height
                chunk = _keep(
                    chunk, pl.col("user_id").fill_null("") != "", "it has no user_id", file, report
                )
                if pairs:
                    chunk = chunk.join(items, on="item_id", how="left", maintain_order="left")
                    known = pl.col("item").is_not_null()
                    chunk = _keep(chunk, known, "the version has no such item", file, report)
                chunk = chunk.drop("row")
                if self.pseudonyms is not None:
                    chunk = chunk.with_columns(pl.col("user_id").alias(GIVEN))
                yield self._named(chunk)
            bar.advance(1)

    def _named(self, table: pl.DataFrame) -> pl.DataFrame:
        """`table` with its users by the names under which they are kept."""
        if self.pseudonyms is None:
            return table
        return table.with_columns(user_id=self.pseudonyms.column(table["user_id"]))


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
        scores, rows = edition.retrieve(
            edition.user_vectors(histories, features),
            edition.popularity_share(histories, features),
            histories,
            n=edition.scoring.fetched(self._depth),
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


def _events(file: InputFile, catalogue: Catalogue) -> Iterator[pl.DataFrame]:
    """`user_id`, `item` (catalogue row), `type`, `timestamp`; unknown items are left out."""
    items = _rows_of(catalogue)
    for chunk in read_rows(file, ("user_id", "item_id"), optional=("timestamp", "type")):
        defaults = {"timestamp": pl.lit(0, pl.Int64), "type": pl.lit("interaction")}
        missing = {name: value for name, value in defaults.items() if name not in chunk.columns}
        yield (
            _with_text_ids(chunk)
            .with_columns(**missing)
            .join(items, on="item_id", how="inner", maintain_order="left")
            .select("user_id", "item", "type", pl.col("timestamp").to_physical().cast(pl.Int64))
        )


def _rows_of(catalogue: Catalogue) -> pl.DataFrame:
    ids = pl.Series(catalogue.item_ids, dtype=pl.String)
    return pl.DataFrame({"item_id": ids, "item": np.arange(len(ids), dtype=np.int64)})


def _feature_columns(edition: RecommenderEdition) -> Sequence[str]:
    return (*edition.user_features.vocabulary, *edition.user_features.numeric)


def _with_text_ids(table: pl.DataFrame) -> pl.DataFrame:
    ids = [name for name in ("user_id", "item_id") if name in table.columns]
    return table.with_columns(pl.col(ids).cast(pl.String))


def _keep(
    table: pl.DataFrame, where: pl.Expr, reason: str, file: InputFile, report: UnitReport
) -> pl.DataFrame:
    for row in table.filter(~where)["row"].to_list():
        report.reject(file.url, reason, row=row)
    return table.filter(where)
