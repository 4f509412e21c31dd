"""A recommender's data: interactions and items, and users and links where there are any."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import polars as pl

from feature_store.interactions.rejects import Rejects
from feature_store.interactions.schema import (
    CATEGORICAL,
    DEFAULT_ITEM_TYPE,
    TABLES,
    TableName,
    check,
)

_HASHED_ROWS = 1 << 20
_NULL_LENGTH = (1 << 32) - 1


def no_items() -> pl.DataFrame:
    """An items table without rows, for data that only have interactions."""
    return pl.DataFrame(schema={"item_id": pl.String})


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """What a dataset holds, in numbers; `first` and `last` are UTC, or None without times."""

    interactions: int
    users: int
    items: int
    items_added: int
    links: int
    types: Mapping[str, int]
    item_types: Mapping[str, int]
    splits: Mapping[str, int]
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The tables that `schema` describes, checked when the dataset is made.

    Items that only the interactions name are added to `items`, with nulls, and counted in
    `items_added`.

    Example:
        >>> log = pl.DataFrame({"user_id": ["ann"], "item_id": ["tea"]})
        >>> Dataset(log).summary().items
        1

    Raises:
        SchemaError: a table breaks the contract.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame = field(default_factory=no_items)
    users: pl.DataFrame | None = None
    links: pl.DataFrame | None = None
    items_added: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        interactions = check("interactions", self.interactions)
        items = check("items", self.items)
        added = interactions.select(pl.col("item_id").unique(maintain_order=True)).join(
            items.select("item_id"), on="item_id", how="anti", maintain_order="left"
        )
        if added.height:
            added = added.with_columns(item_type=pl.lit(DEFAULT_ITEM_TYPE))
            items = pl.concat([items, added], how="diagonal")
        # Frozen for everyone else: these are the checked forms of what was given.
        object.__setattr__(self, "interactions", interactions)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "items_added", added.height)
        if self.users is not None:
            object.__setattr__(self, "users", check("users", self.users))
        if self.links is not None:
            object.__setattr__(self, "links", check("links", self.links))

    @classmethod
    def read(cls, directory: str | Path, *, rejects: Rejects | None = None) -> "Dataset":
        """Read the folder's `interactions`, `items`, `users` and `links`, as .parquet or .csv.

        In CSV, `genres[]` is a categorical column whose values are separated by `|`; timestamps
        are Unix seconds, Unix milliseconds (from 1e11 on) or ISO 8601 (UTC where it says nothing).

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds no interactions, or a table twice.
            SchemaError: a column is missing or of a wrong type.
            TooManyRejects: more rows were unreadable than `rejects` allows.
        """
        # The importers make datasets, so this import cannot stand at the top.
        from feature_store.interactions.importers.tabular import TabularImporter

        rejects = rejects or Rejects()
        dataset = TabularImporter().read(Path(directory), rejects)
        rejects.settle()
        return dataset

    def write(self, directory: str | Path) -> None:
        """Write each table to `directory` as Parquet; a reader never sees half a file.

        Raises:
            ValueError: the folder holds one of the tables in another format, so that it would
                be there twice.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            others = [p for p in sorted(folder.glob(f"{name}.*")) if p.suffix != ".parquet"]
            if others:
                raise ValueError(f"{folder} already holds {others[0].name}; choose another folder")
        tables = dict(self._tables())
        written = {name: folder / f".{name}-{uuid4().hex}" for name in tables}
        try:
            for name, table in tables.items():
                table.write_parquet(written[name])
            for name in TABLES:
                if name not in tables:
                    (folder / f"{name}.parquet").unlink(missing_ok=True)
            for name, temporary in written.items():
                temporary.replace(folder / f"{name}.parquet")
        finally:
            for temporary in written.values():
                temporary.unlink(missing_ok=True)

    def fingerprint(self) -> str:
        """Sha256 (hex) over the tables' content.

        The same for the same rows in the same order, however they were stored or chunked and
        whatever the order of the columns. The order of rows counts: without timestamps it is
        the only history there is.
        """
        digest = hashlib.sha256()
        for name, table in self._tables():
            digest.update(f"table {name} {table.height}\n".encode())
            for column in sorted(table.columns):
                digest.update(f"column {column!r} {table.schema[column]}\n".encode())
                for start in range(0, table.height, _HASHED_ROWS):
                    for part in _content(table[column].slice(start, _HASHED_ROWS)):
                        digest.update(part)
        return digest.hexdigest()

    def summary(self) -> DatasetSummary:
        """Count what is here."""
        log = self.interactions
        users = log["user_id"]
        if self.users is not None:
            users = pl.concat([users, self.users["user_id"]])
        first, last = log.select(
            first=pl.col("timestamp").min(), last=pl.col("timestamp").max()
        ).row(0)
        return DatasetSummary(
            interactions=log.height,
            users=users.n_unique(),
            items=self.items.height,
            items_added=self.items_added,
            links=0 if self.links is None else self.links.height,
            types=_counts(log["type"]),
            item_types=_counts(self.items["item_type"]),
            splits=_counts(log["split"]) if "split" in log.columns else {},
            first=first,
            last=last,
        )

    def _tables(self) -> Iterator[tuple[TableName, pl.DataFrame]]:
        for name in TABLES:
            table = getattr(self, name)
            if table is not None:
                yield name, table


def _counts(values: pl.Series) -> dict[str, int]:
    counts = values.value_counts(name="n").sort(["n", values.name], descending=[True, False])
    return dict(counts.iter_rows())


def _content(values: pl.Series) -> Iterator[bytes]:
    """The values as bytes: lengths first, so that no two columns share their bytes."""
    if values.dtype == CATEGORICAL:
        yield _lengths(values.list.len())
        yield from _content(values.drop_nulls().explode())
    elif values.dtype == pl.String:
        yield _lengths(values.str.len_bytes())
        yield str(values.drop_nulls().str.join("").item() or "").encode()
    else:
        yield values.is_null().cast(pl.UInt8).to_numpy().tobytes()
        yield values.to_physical().fill_null(0).to_numpy().tobytes()


def _lengths(lengths: pl.Series) -> bytes:
    return lengths.cast(pl.UInt32).fill_null(_NULL_LENGTH).to_numpy().tobytes()
