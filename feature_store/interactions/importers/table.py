"""A frame as some file had it to a table of the contract, leaving out the rows that do not fit."""

from collections.abc import Callable, Mapping

import polars as pl

from feature_store.interactions.importers.times import read_times
from feature_store.interactions.rejects import LINE, ROW, Rejects
from feature_store.interactions.schema import (
    CATEGORICAL,
    DEFAULT_ITEM_TYPE,
    DEFAULT_TYPE,
    KNOWN_SPLIT,
    POSITIVE_WEIGHT,
    SPLITS,
    TIMESTAMP,
    SchemaError,
    TableName,
    check,
    present,
)

_LIST_SUFFIX = "[]"
_LIST_SEPARATOR = "|"


def to_table(name: TableName, raw: pl.DataFrame, *, file: str, rejects: Rejects) -> pl.DataFrame:
    """Parse the columns of `raw` and return the table `name`, as `schema.check` would have it.

    Args:
        name: which of the four tables.
        raw: strings, or types of the contract. A String column `x[]` becomes the categorical
            column `x`, split at `|`. With `LINE` and `ROW` from `read_delimited`, or without:
            then rows are counted from 1.
        file: where the rows come from, for `rejects`.
        rejects: gets the rows with missing ids, unparsable values and ids that came before.

    Raises:
        SchemaError: a column is missing, unknown or of a type that cannot be meant.
    """
    if LINE not in raw.columns:
        raw = raw.with_row_index(LINE, offset=1)
    lists = [column for column in raw.columns if column.endswith(_LIST_SUFFIX)]
    for column in lists:
        name_in_table = column.removesuffix(_LIST_SUFFIX)
        if name_in_table in raw.columns:
            raise SchemaError(f"{file} has both a column {column} and a column {name_in_table}")
        split = split_list(column, _LIST_SEPARATOR).alias(name_in_table)
        raw = raw.with_columns(split).drop(column)
    try:
        frame = _PARSERS[name](raw, file, rejects)
    except pl.exceptions.InvalidOperationError as error:  # a Parquet column of a type like List
        raise SchemaError(f"{file}: not a table of {name}: {error}") from error
    return check(name, frame.drop(LINE, ROW, strict=False))


def split_list(column: str, separator: str) -> pl.Expr:
    """The trimmed parts of a String column, List(String); `schema.check` drops the empty ones."""
    parts = pl.col(column).str.split(separator)
    return parts.list.eval(pl.element().str.strip_chars())


def _interactions(frame: pl.DataFrame, file: str, rejects: Rejects) -> pl.DataFrame:
    frame = _with_ids("interactions", frame, ("user_id", "item_id"), file, rejects)
    if "timestamp" in frame.columns:
        frame = _with_times(frame, file, rejects)
    if "weight" in frame.columns:
        frame = frame.with_columns(pl.col("weight").cast(pl.Float32, strict=False))
        reason = "weight is not a finite number above 0"
        frame = rejects.keep(frame, POSITIVE_WEIGHT, file=file, reason=reason)
    if "type" in frame.columns:
        frame = _with_default(frame, "type", DEFAULT_TYPE)
    if "split" in frame.columns:
        frame = frame.with_columns(pl.col("split").cast(pl.String))
        reason = f"split is not one of {', '.join(SPLITS)}"
        frame = rejects.keep(frame, KNOWN_SPLIT, file=file, reason=reason)
    return frame


def _items(frame: pl.DataFrame, file: str, rejects: Rejects) -> pl.DataFrame:
    frame = _unique("items", frame, "item_id", file, rejects)
    return _with_default(frame, "item_type", DEFAULT_ITEM_TYPE)


def _users(frame: pl.DataFrame, file: str, rejects: Rejects) -> pl.DataFrame:
    frame = _unique("users", frame, "user_id", file, rejects)
    for column, dtype in frame.schema.items():
        if column in (LINE, ROW, "user_id") or dtype == CATEGORICAL:
            continue
        value = pl.col(column)
        given = value.is_not_null() if dtype != pl.String else present(column)
        number = value.cast(pl.Float32, strict=False)
        reason = f"{column} is not a finite number (a category is written {column}[])"
        frame = rejects.keep(frame, ~given | number.is_finite(), file=file, reason=reason)
        frame = frame.with_columns(number)
    return frame


def _links(frame: pl.DataFrame, file: str, rejects: Rejects) -> pl.DataFrame:
    return _with_ids("links", frame, ("head", "relation", "tail"), file, rejects)


_PARSERS: Mapping[TableName, Callable[[pl.DataFrame, str, Rejects], pl.DataFrame]] = {
    "interactions": _interactions,
    "items": _items,
    "users": _users,
    "links": _links,
}


def _with_ids(
    table: TableName, frame: pl.DataFrame, columns: tuple[str, ...], file: str, rejects: Rejects
) -> pl.DataFrame:
    for column in columns:
        if column not in frame.columns:
            found = ", ".join(c for c in frame.columns if c not in (LINE, ROW))
            raise SchemaError(f"{file}: {table} need a column {column}; found {found}")
        frame = frame.with_columns(pl.col(column).cast(pl.String))
        frame = rejects.keep(frame, present(column), file=file, reason=f"missing {column}")
    return frame


def _unique(
    table: TableName, frame: pl.DataFrame, column: str, file: str, rejects: Rejects
) -> pl.DataFrame:
    frame = _with_ids(table, frame, (column,), file, rejects)
    first = pl.col(column).is_first_distinct()
    return rejects.keep(frame, first, file=file, reason=f"duplicated {column}")


def _with_default(frame: pl.DataFrame, column: str, default: str) -> pl.DataFrame:
    if column not in frame.columns:
        return frame.with_columns(pl.lit(default).alias(column))
    value = pl.col(column).cast(pl.String)
    return frame.with_columns(pl.when(value != "").then(value).otherwise(pl.lit(default)))


def _with_times(frame: pl.DataFrame, file: str, rejects: Rejects) -> pl.DataFrame:
    dtype = frame.schema["timestamp"]
    given = pl.col("timestamp").is_not_null() if dtype != pl.String else present("timestamp")
    if not frame.select(given.any()).item():
        return frame.with_columns(pl.lit(None, TIMESTAMP).alias("timestamp"))
    frame = rejects.keep(frame, given, file=file, reason="missing timestamp")
    times = read_times(frame["timestamp"])
    readable = pl.lit(times.is_not_null())
    frame = rejects.keep(frame, readable, file=file, reason="unparsable timestamp")
    return frame.with_columns(times.drop_nulls().alias("timestamp"))
