"""The four tables: their columns, types and defaults, and the check that each one passes.

- interactions: user_id, item_id String; timestamp Datetime(ms, UTC), null in all rows or in none;
  type String; weight Float32, finite and > 0; split String, only where a split was published.
- items: item_id String, unique; item_type String; any other String column is text, any
  List(String) column is categorical.
- users: user_id String, unique; any List(String) column is categorical, any Float32 numeric.
- links: head, relation, tail String; a knowledge graph over item ids and free entity ids.

"Nothing" has one form, null: never an empty string, an empty list or a NaN.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import polars as pl

TableName = Literal["interactions", "items", "users", "links"]
TABLES: tuple[TableName, ...] = get_args(TableName)

TIMESTAMP = pl.Datetime("ms", "UTC")
CATEGORICAL = pl.List(pl.String)
SPLITS = ("train", "validation", "test")
DEFAULT_TYPE = "interaction"
DEFAULT_ITEM_TYPE = "item"
DEFAULT_WEIGHT = 1.0

POSITIVE_WEIGHT = pl.col("weight").is_finite() & (pl.col("weight") > 0)
KNOWN_SPLIT = pl.col("split").is_in(SPLITS)


class SchemaError(ValueError):
    """A table breaks the contract; the message names the table, the column and both values."""


def check(table: TableName, frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` in the contract's form, or say how it breaks the contract.

    Missing optional columns get their defaults, the contract's columns come first, and empty
    texts and lists become null.

    Raises:
        SchemaError: a column is missing, unknown or of a wrong type, or a value is not allowed.
    """
    return _CHECKS[table](frame)


def present(column: str) -> pl.Expr:
    """True where `column`, a String, holds something."""
    return pl.col(column).is_not_null() & (pl.col(column) != "")


def _interactions(frame: pl.DataFrame) -> pl.DataFrame:
    defaults = {
        "timestamp": pl.lit(None, TIMESTAMP),
        "type": pl.lit(DEFAULT_TYPE, pl.String),
        "weight": pl.lit(DEFAULT_WEIGHT, pl.Float32),
    }
    types = {
        "user_id": pl.String(),
        "item_id": pl.String(),
        "timestamp": TIMESTAMP,
        "type": pl.String(),
        "weight": pl.Float32(),
    }
    if "split" in frame.columns:
        types["split"] = pl.String()
    frame = _typed("interactions", frame, types=types, defaults=defaults)
    for column in ("user_id", "item_id", "type"):
        _require("interactions", frame, present(column), f"an empty {column}")
    _require("interactions", frame, POSITIVE_WEIGHT, "a weight that is not finite and above 0")
    if "split" in frame.columns:
        _require("interactions", frame, KNOWN_SPLIT, f"a split that is not one of {SPLITS}")
    without_time = frame["timestamp"].null_count()
    if 0 < without_time < frame.height:
        raise SchemaError(
            f"interactions: {without_time:,} of {frame.height:,} rows have no timestamp; "
            "expected all rows or none"
        )
    return frame


def _items(frame: pl.DataFrame) -> pl.DataFrame:
    types = {"item_id": pl.String(), "item_type": pl.String()}
    defaults = {"item_type": pl.lit(DEFAULT_ITEM_TYPE, pl.String)}
    others: tuple[pl.DataType, ...] = (pl.String(), CATEGORICAL)
    frame = _typed("items", frame, types=types, defaults=defaults, others=others)
    _require("items", frame, present("item_type"), "an empty item_type")
    return _unique("items", frame, "item_id")


def _users(frame: pl.DataFrame) -> pl.DataFrame:
    others: tuple[pl.DataType, ...] = (pl.Float32(), CATEGORICAL)
    frame = _typed("users", frame, types={"user_id": pl.String()}, others=others)
    for column, dtype in frame.schema.items():
        if dtype == pl.Float32:
            finite = pl.col(column).is_finite() | pl.col(column).is_null()
            _require("users", frame, finite, f"a value of {column} that is not finite")
    return _unique("users", frame, "user_id")


def _links(frame: pl.DataFrame) -> pl.DataFrame:
    columns = ("head", "relation", "tail")
    frame = _typed("links", frame, types=dict.fromkeys(columns, pl.String()))
    for column in columns:
        _require("links", frame, present(column), f"an empty {column}")
    return frame


_CHECKS: Mapping[TableName, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "interactions": _interactions,
    "items": _items,
    "users": _users,
    "links": _links,
}


def _typed(
    table: TableName,
    frame: pl.DataFrame,
    *,
    types: Mapping[str, pl.DataType],
    defaults: Mapping[str, pl.Expr] | None = None,
    others: tuple[pl.DataType, ...] = (),
) -> pl.DataFrame:
    missing = {name: value for name, value in (defaults or {}).items() if name not in frame.columns}
    frame = frame.with_columns(**missing)
    for column, dtype in types.items():
        if column not in frame.columns:
            raise SchemaError(f"{table} has no column {column}; it has {', '.join(frame.columns)}")
        if frame.schema[column] != dtype:
            raise SchemaError(f"{table}.{column} is {frame.schema[column]}; expected {dtype}")
    rest = [column for column in frame.columns if column not in types]
    for column in rest:
        if frame.schema[column] not in others:
            expected = " or ".join(map(str, others)) or f"only {', '.join(types)}"
            raise SchemaError(f"{table}.{column} is {frame.schema[column]}; expected {expected}")
    return frame.select(*types, *(_canonical(column, frame.schema[column]) for column in rest))


def _canonical(column: str, dtype: pl.DataType) -> pl.Expr:
    value = pl.col(column)
    if dtype == pl.String:
        return pl.when(value != "").then(value)
    if dtype == CATEGORICAL:
        kept = value.list.eval(pl.element().filter(pl.element() != ""))
        return pl.when(kept.list.len() > 0).then(kept).alias(column)
    return value


def _require(table: TableName, frame: pl.DataFrame, where: pl.Expr, breach: str) -> None:
    broken = frame.height - int(frame.select(where.fill_null(False).sum()).item())
    if broken:
        raise SchemaError(f"{table}: {broken:,} of {frame.height:,} rows have {breach}")


def _unique(table: TableName, frame: pl.DataFrame, column: str) -> pl.DataFrame:
    _require(table, frame, present(column), f"an empty {column}")
    _require(table, frame, pl.col(column).is_first_distinct(), f"a {column} that came before")
    return frame
