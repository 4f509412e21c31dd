from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.interactions.importers.table import to_table
from feature_store.interactions.rejects import LINE, ROW, Rejects
from feature_store.interactions.schema import SchemaError, TableName

Columns = Mapping[str, Sequence[str | None]]


def parse(table: TableName, columns: Columns) -> tuple[pl.DataFrame, Rejects]:
    rejects = Rejects()
    frame = pl.DataFrame(columns, dict.fromkeys(columns, pl.String))
    return to_table(table, frame, file="f.csv", rejects=rejects), rejects


def log(**columns: Sequence[str | None]) -> Columns:
    rows = len(next(iter(columns.values())))
    return {"user_id": ["u"] * rows, "item_id": ["i"] * rows, **columns}


@pytest.mark.parametrize("written", ["yesterday", "nan", "2026-13-01"])
def test_a_time_that_cannot_be_read_is_rejected(written: str) -> None:
    table, rejects = parse("interactions", log(timestamp=["5", written]))
    assert table.height == 1
    assert dict(rejects.by_reason) == {"unparsable timestamp": 1}


def test_times_may_be_missing_everywhere_but_not_here_and_there() -> None:
    table, rejects = parse("interactions", log(timestamp=["", None]))
    assert table["timestamp"].null_count() == 2
    table, rejects = parse("interactions", log(timestamp=["5", "", None]))
    assert table.height == 1
    assert dict(rejects.by_reason) == {"missing timestamp": 2}


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "", "x", "1e39", "1e-50"])
def test_a_weight_that_no_float32_above_zero_can_hold_is_rejected(weight: str) -> None:
    table, rejects = parse("interactions", log(weight=["2.5", weight]))
    assert table["weight"].to_list() == [2.5]
    assert rejects.first()[0].line == 2
    assert rejects.first()[0].reason == "weight is not a finite number above 0"


def test_the_type_has_a_default_and_the_split_none() -> None:
    table, rejects = parse("interactions", log(type=["view", ""], split=["test", "train"]))
    assert table["type"].to_list() == ["view", "interaction"]
    table, rejects = parse("interactions", log(split=["test", ""]))
    assert table["split"].to_list() == ["test"]
    assert rejects.count == 1


def test_categories_are_split_and_trimmed() -> None:
    table, _ = parse(
        "items",
        {
            "item_id": ["x", "y"],
            "title": ["Tea|Time", ""],
            "genres[]": [" hot | sweet|", ""],
        },
    )
    assert table.rows() == [
        ("x", "item", "Tea|Time", ["hot", "sweet"]),
        ("y", "item", None, None),
    ]


def test_a_list_and_a_text_of_one_name_are_an_error() -> None:
    with pytest.raises(SchemaError, match=r"f.csv has both a column tags\[\] and a column tags"):
        parse("items", {"item_id": ["x"], "tags": ["a"], "tags[]": ["b"]})


def test_the_first_of_two_items_with_one_id_is_kept() -> None:
    table, rejects = parse("items", {"item_id": ["x", "x", ""], "title": ["one", "two", "no"]})
    assert table["title"].to_list() == ["one"]
    assert dict(rejects.by_reason) == {"duplicated item_id": 1, "missing item_id": 1}


def test_a_category_of_users_in_the_place_of_a_number_is_explained() -> None:
    table, rejects = parse("users", {"user_id": ["a", "b"], "age": ["3", ""], "city[]": ["U", ""]})
    assert table.rows() == [("a", 3.0, ["U"]), ("b", None, None)]
    _, rejects = parse("users", {"user_id": ["a"], "city": ["Ulm"]})
    assert "a category is written city[]" in rejects.first()[0].reason


def test_links_need_all_three() -> None:
    columns: Columns = {"head": ["a", ""], "relation": ["r", "r"], "tail": ["b", "b"]}
    table, rejects = parse("links", columns)
    assert table.rows() == [("a", "r", "b")]
    assert dict(rejects.by_reason) == {"missing head": 1}


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(SchemaError, match=r"f.csv: interactions need a column item_id; found user"):
        parse("interactions", {"user": ["a"], "user_id": ["a"]})


def test_typed_columns_keep_their_meaning() -> None:
    raw = pl.DataFrame(
        {"user_id": [1, 2], "item_id": [3, 4], "weight": [1, 2]},
    ).with_columns(timestamp=pl.Series([datetime(2026, 1, 1), datetime(2026, 1, 2)]))
    table = to_table("interactions", raw, file="f.parquet", rejects=Rejects())
    assert table["user_id"].to_list() == ["1", "2"]
    assert table["timestamp"].to_list()[0] == datetime(2026, 1, 1, tzinfo=UTC)
    seconds = raw.with_columns(timestamp=pl.Series([10, 20]))
    table = to_table("interactions", seconds, file="f.parquet", rejects=Rejects())
    assert table["timestamp"].to_list()[0] == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)


def test_a_column_whose_type_cannot_be_meant_is_an_error() -> None:
    raw = pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "weight": [[1.0]]})
    with pytest.raises(SchemaError, match=r"f.parquet: not a table of interactions"):
        to_table("interactions", raw, file="f.parquet", rejects=Rejects())


CELLS = st.sampled_from(["", "a", "b", "1", "-1", "nan", "2026-01-01", "é"])


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=20))
def test_every_row_is_kept_or_rejected_once(rows: list[tuple[str, ...]]) -> None:
    raw = pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "weight"], orient="row")
    rejects = Rejects()
    table = to_table("interactions", raw, file="f.csv", rejects=rejects)
    assert table.height + rejects.count == len(rows)
    assert rejects.frame["line"].is_unique().all()
    assert not {LINE, ROW} & set(table.columns)
