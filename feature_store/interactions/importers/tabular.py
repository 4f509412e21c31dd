"""Plain tables: CSV, TSV or Parquet files whose columns are a dataset's, or are mapped to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

import polars as pl

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers.delimited import read_delimited
from feature_store.interactions.importers.source import Source, folder_of
from feature_store.interactions.importers.table import split_list, to_table
from feature_store.interactions.rejects import LINE, ROW, Rejects
from feature_store.interactions.schema import TABLES, SchemaError, TableName

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMapping:
    r"""How the columns of one file become those of one table; columns not named are left out.

    Args:
        file: the file's name, or a pattern that one file matches.
        table: interactions, items, users or links.
        rename: the table's column for the file's, as in `{"movieId": "item_id"}`.
        text: which of the file's columns are text (items).
        categorical: which are categories, and the separator between several in one field, ""
            for one alone: `{"genre": ", ", "studio": ""}` (items, users).
        numeric: which are numbers (users).
        constants: columns with one value in all rows, as in `{"type": "view"}`.
        separator: between columns; by default `,` in .csv and `\t` elsewhere.

    Example:
        >>> TableMapping(
        ...     file="anime_info.dat",
        ...     table="items",
        ...     rename={"anime_ids": "item_id", "type": "item_type"},
        ...     text=("name",),
        ...     categorical={"genre": ","},
        ... ).table
        'items'
    """

    file: str
    table: TableName
    rename: Mapping[str, str] = field(default_factory=dict)
    text: Sequence[str] = ()
    categorical: Mapping[str, str] = field(default_factory=dict)
    numeric: Sequence[str] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None


class TabularImporter:
    """Tables as files.

    Args:
        mappings: one for each file; several for one table are put one below the other. Without
            them the files are `interactions`, `items`, `users` and `links` (.parquet, .csv or
            .tsv), with the columns of `schema`; in text, a column `genres[]` holds categories
            with `|` between them.
    """

    name = "tabular"
    looks_for = "interactions.parquet, interactions.csv or interactions.tsv"

    def __init__(self, mappings: Sequence[TableMapping] = ()) -> None:
        self._mappings = tuple(mappings)

    def matches(self, path: Path) -> bool:
        """See `Importer.matches`."""
        return bool(_files_of("interactions", Source(path)))

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """See `Importer.read`."""
        source = Source(path)
        read = self._read_mapped if self._mappings else self._read_as_named
        tables = read(source, rejects)
        if "interactions" not in tables:
            raise ValueError(f"expected {self.looks_for} in {path}; none is there")
        return Dataset(**{name: _below_each_other(parts) for name, parts in tables.items()})

    def _read_as_named(self, source: Source, rejects: Rejects) -> dict[str, list[pl.DataFrame]]:
        tables: dict[str, list[pl.DataFrame]] = {}
        folders = {folder_of(name) for name in _files_of("interactions", source)}
        for table in TABLES:
            found = [name for name in _files_of(table, source) if folder_of(name) in folders]
            if len(found) > 1:
                raise ValueError(f"{source.path} holds {table} twice: {', '.join(found)}")
            for file in found:
                raw = _read(source, file, rejects, separator=None)
                tables[table] = [to_table(table, raw, file=file, rejects=rejects)]
        return tables

    def _read_mapped(self, source: Source, rejects: Rejects) -> dict[str, list[pl.DataFrame]]:
        tables: dict[str, list[pl.DataFrame]] = {}
        for mapping in self._mappings:
            file = source.one(mapping.file)
            raw = _read(source, file, rejects, separator=mapping.separator)
            raw = _mapped(raw, mapping)
            table = to_table(mapping.table, raw, file=file, rejects=rejects)
            tables.setdefault(mapping.table, []).append(table)
        return tables


def _files_of(table: TableName, source: Source) -> tuple[str, ...]:
    """The files named as `table`; in a folder only its own, as those below are other data sets."""
    suffixes = (_PARQUET, *_SEPARATORS)
    found = [name for suffix in suffixes for name in source.find(table + suffix)]
    depth = min((name.count("/") for name in found), default=0) if source.is_archive else 0
    return tuple(name for name in found if name.count("/") == depth)


def _read(source: Source, file: str, rejects: Rejects, *, separator: str | None) -> pl.DataFrame:
    data = source.read(file)
    suffix = PurePosixPath(file.removesuffix(".gz")).suffix
    if suffix == _PARQUET:
        try:
            frame = pl.read_parquet(BytesIO(data))
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{file} is no Parquet file: {error}") from error
        rejects.saw(frame.height)
        return frame
    separator = separator or _SEPARATORS.get(suffix, "\t")
    return read_delimited(data, file=file, rejects=rejects, separator=separator, quoted=True)


def _mapped(raw: pl.DataFrame, mapping: TableMapping) -> pl.DataFrame:
    columns: dict[str, pl.Expr] = {
        column: pl.col(column) for column in (*mapping.rename, *mapping.text, *mapping.numeric)
    }
    for column, separator in mapping.categorical.items():
        columns[column] = split_list(column, separator) if separator else pl.concat_list(column)
    for column in columns:
        if column not in raw.columns:
            found = ", ".join(c for c in raw.columns if c not in (LINE, ROW))
            raise SchemaError(f"{mapping.file} has no column {column}; it has {found}")
    named = {mapping.rename.get(column, column): value for column, value in columns.items()}
    constants = {column: pl.lit(value) for column, value in mapping.constants.items()}
    if len(named | constants) < len(columns) + len(constants):
        raise SchemaError(f"{mapping.file}: the mapping gives two columns one name")
    places = [column for column in (LINE, ROW) if column in raw.columns]
    return raw.select(*places, **named, **constants)


def _below_each_other(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts, how="diagonal") if len(parts) > 1 else parts[0]
