"""RecBole's atomic files: `.inter`, and `.item`, `.user`, `.kg` with `.link` where there are any.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html. Tab-separated; the header types
each column, as in `user_id:token`, `rating:float`, `class:token_seq`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from feature_store.interactions.dataset import Dataset, no_items
from feature_store.interactions.importers.delimited import read_delimited
from feature_store.interactions.importers.source import Source
from feature_store.interactions.importers.table import split_list, to_table
from feature_store.interactions.rejects import LINE, ROW, Rejects
from feature_store.interactions.schema import SchemaError, present

_log = logging.getLogger(__name__)

_TYPES = ("token", "token_seq", "float", "float_seq")
_TEXT_NAMES = ("title", "name")


class RecBoleImporter:
    """A folder, archive or prefix with one `.inter` file.

    `rating` becomes the weight of an interaction of type `rating`. A `token_seq` column whose name
    has `title` or `name` in it is text; other `token` and `token_seq` columns are categories.
    Columns that a dataset has no place for are left out, with a warning in the log.
    """

    name = "recbole"
    looks_for = "*.inter (with *.item, *.user, *.kg and *.link)"

    def matches(self, path: Path) -> bool:
        """See `Importer.matches`."""
        return bool(Source(path).find("*.inter"))

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """See `Importer.read`."""
        source = Source(path)
        inter = _read(source, source.one("*.inter"), rejects)
        item, user, kg, link = (
            None if (name := source.optional(f"*.{kind}")) is None else _read(source, name, rejects)
            for kind in ("item", "user", "kg", "link")
        )
        log = _interactions(inter, rejects)
        items = no_items() if item is None else _items(item, rejects)
        users = None if user is None else _users(user, rejects)
        links = None
        if kg is not None:
            item_ids = pl.concat([items["item_id"], log["item_id"]]).unique()
            links = _links(kg, link, item_ids=item_ids, rejects=rejects)
        return Dataset(log, items, users, links)


@dataclass(frozen=True, slots=True)
class _AtomicFile:
    name: str
    types: dict[str, str]
    rows: pl.DataFrame

    def select(self, columns: dict[str, pl.Expr]) -> pl.DataFrame:
        """The given columns, with the rows' places; says which of the file's are left out."""
        used = {name for value in columns.values() for name in value.meta.root_names()}
        left_out = [f"{name}:{kind}" for name, kind in self.types.items() if name not in used]
        if left_out:
            _log.warning("%s: left out %s", self.name, ", ".join(left_out))
        return self.rows.select(LINE, ROW, **columns)


def _read(source: Source, name: str, rejects: Rejects) -> _AtomicFile:
    rows = read_delimited(source.read(name), file=name, rejects=rejects, separator="\t")
    types: dict[str, str] = {}
    for header in rows.columns:
        if header in (LINE, ROW):
            continue
        column, _, kind = header.rpartition(":")
        if kind not in _TYPES or not column:
            raise SchemaError(
                f"{name}: {header} in the header; expected NAME:TYPE, TYPE of {_TYPES}"
            )
        if column in types:
            raise SchemaError(f"{name} has two columns {column}")
        types[column] = kind
        rows = rows.rename({header: column})
    return _AtomicFile(name, types, rows)


def _interactions(file: _AtomicFile, rejects: Rejects) -> pl.DataFrame:
    columns = _named(file, "user_id", "item_id")
    if "timestamp" in file.types:
        columns["timestamp"] = pl.col("timestamp")
    if "rating" in file.types:
        columns |= {"weight": pl.col("rating"), "type": pl.lit("rating")}
    return to_table("interactions", file.select(columns), file=file.name, rejects=rejects)


def _items(file: _AtomicFile, rejects: Rejects) -> pl.DataFrame:
    columns = _named(file, "item_id")
    for column, kind in file.types.items():
        if column == "item_id":
            continue
        if kind == "token_seq" and any(name in column for name in _TEXT_NAMES):
            columns[column] = pl.col(column)
        elif kind in ("token", "token_seq"):
            columns[column] = _categories(column, kind)
    if "item_type" in columns:
        columns["item_type"] = pl.col("item_type")
    return to_table("items", file.select(columns), file=file.name, rejects=rejects)


def _users(file: _AtomicFile, rejects: Rejects) -> pl.DataFrame:
    columns = _named(file, "user_id")
    for column, kind in file.types.items():
        if column == "user_id":
            continue
        if kind == "float":
            columns[column] = pl.col(column)
        elif kind in ("token", "token_seq"):
            columns[column] = _categories(column, kind)
    return to_table("users", file.select(columns), file=file.name, rejects=rejects)


def _links(
    kg: _AtomicFile, link: _AtomicFile | None, *, item_ids: pl.Series, rejects: Rejects
) -> pl.DataFrame:
    """The triples, with the ids of items where an entity is linked to one."""
    triples = {"head": "head_id", "relation": "relation_id", "tail": "tail_id"}
    _named(kg, *triples.values())
    rows = kg.select({name: pl.col(column) for name, column in triples.items()})
    links = to_table("links", rows, file=kg.name, rejects=rejects)
    item_of = _item_of_entity(link, rejects) if link is not None else {}
    # A free entity that happens to have an item's id must not become that item.
    return links.with_columns(
        pl.when(pl.col(end).is_in(list(item_of)))
        .then(pl.col(end).replace(item_of))
        .when(pl.col(end).is_in(item_ids.implode()))
        .then(pl.concat_str(pl.lit("entity:"), end))
        .otherwise(end)
        .alias(end)
        for end in ("head", "tail")
    )


def _item_of_entity(file: _AtomicFile, rejects: Rejects) -> dict[str, str]:
    rows = file.select(_named(file, "entity_id", "item_id"))
    for column in ("entity_id", "item_id"):
        reason = f"missing {column}"
        rows = rejects.keep(rows, present(column), file=file.name, reason=reason)
    first = pl.col("entity_id").is_first_distinct()
    rows = rejects.keep(rows, first, file=file.name, reason="duplicated entity_id")
    return dict(rows.select("entity_id", "item_id").iter_rows())


def _named(file: _AtomicFile, *columns: str) -> dict[str, pl.Expr]:
    for column in columns:
        if column not in file.types:
            raise SchemaError(f"{file.name} has no column {column}; it has {', '.join(file.types)}")
    return {column: pl.col(column) for column in columns}


def _categories(column: str, kind: str) -> pl.Expr:
    return split_list(column, " ") if kind == "token_seq" else pl.concat_list(column)
