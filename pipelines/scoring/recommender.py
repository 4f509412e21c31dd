"""The job of scoring a recommender: its input sorted out by user, bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.editions.recommender import MODEL_NAME, RecommenderEdition
from feature_store.interactions.catalogue import Catalogue
from feature_store.online import OnlineStore, connect
from feature_store.pseudonyms import Pseudonyms
from feature_store.registry import Registry
from pipelines.progress import Bar, Reporter
from pipelines.scoring.histories import OnlineHistories
from pipelines.scoring.inputs import InputFile, read_rows
from pipelines.scoring.memory import MemorySource, corrected
from pipelines.scoring.output import JobManifest, Output, UnitReport
from pipelines.scoring.staging import BUFFER_BYTES, Staged, bucket_count, stage
from pipelines.scoring.user_scores import (
    EVENTS,
    FEATURES,
    GIVEN,
    ROWS,
    PairScores,
    Ranking,
    UserScorer,
)

USERS_A_BLOCK = 1_024
BUCKET_BYTES = 16 << 20  # of Parquet: some million events

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
