from datetime import UTC, datetime

import polars as pl
import pytest

from feature_store.interactions.schema import TIMESTAMP, SchemaError, check

LOG = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"]})


def test_interactions_need_only_ids() -> None:
    table = check("interactions", LOG)
    assert table.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": TIMESTAMP,
        "type": pl.String,
        "weight": pl.Float32,
    }
    assert table["type"].to_list() == ["interaction"] * 2
    assert table["weight"].to_list() == [1.0, 1.0]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), None])
def test_a_weight_is_finite_and_above_zero(weight: float | None) -> None:
    log = LOG.with_columns(weight=pl.Series([1.0, weight], dtype=pl.Float32))
    with pytest.raises(SchemaError, match=r"1 of 2 rows have a weight that is not finite"):
        check("interactions", log)


@pytest.mark.parametrize("column", ["user_id", "item_id"])
@pytest.mark.parametrize("value", [None, ""])
def test_an_id_is_never_empty(column: str, value: str | None) -> None:
    log = LOG.with_columns(pl.Series(column, ["a", value]))
    with pytest.raises(SchemaError, match=f"1 of 2 rows have an empty {column}"):
        check("interactions", log)


def test_all_rows_have_a_timestamp_or_none_has() -> None:
    times = pl.Series([datetime(2026, 1, 1, tzinfo=UTC), None], dtype=TIMESTAMP)
    with pytest.raises(SchemaError, match="1 of 2 rows have no timestamp"):
        check("interactions", LOG.with_columns(timestamp=times))


def test_a_split_is_one_of_three() -> None:
    known = LOG.with_columns(split=pl.Series(["train", "test"]))
    assert check("interactions", known)["split"].to_list() == ["train", "test"]
    with pytest.raises(SchemaError, match="split that is not one of"):
        check("interactions", LOG.with_columns(split=pl.Series(["train", "dev"])))


def test_a_wrong_type_is_named_with_the_expected_one() -> None:
    with pytest.raises(SchemaError, match=r"interactions.user_id is Int64; expected String"):
        check("interactions", LOG.with_columns(user_id=pl.Series([1, 2])))
    with pytest.raises(SchemaError, match=r"items.year is Int64; expected String or List"):
        check("items", pl.DataFrame({"item_id": ["x"], "year": [1995]}))


def test_a_missing_and_an_unknown_column_are_named() -> None:
    with pytest.raises(SchemaError, match="interactions has no column item_id; it has user_id"):
        check("interactions", LOG.drop("item_id"))
    with pytest.raises(SchemaError, match=r"interactions.mood"):
        check("interactions", LOG.with_columns(mood=pl.lit("good")))


def test_nothing_has_one_form_in_items() -> None:
    items = pl.DataFrame(
        {"item_id": ["x", "y"], "title": ["", "Tea"], "tags": [[], ["hot", "", None]]},
        schema_overrides={"tags": pl.List(pl.String)},
    )
    table = check("items", items)
    assert table.rows() == [("x", "item", None, None), ("y", "item", "Tea", ["hot"])]


@pytest.mark.parametrize(("table", "column"), [("items", "item_id"), ("users", "user_id")])
def test_ids_of_items_and_users_are_unique(table: str, column: str) -> None:
    with pytest.raises(SchemaError, match=f"a {column} that came before"):
        check(table, pl.DataFrame({column: ["x", "x"]}))  # type: ignore[arg-type]


def test_users_have_categories_and_finite_numbers() -> None:
    users = pl.DataFrame(
        {"user_id": ["a"], "age": [30.0], "city": [["Ulm"]]},
        schema_overrides={"age": pl.Float32},
    )
    assert check("users", users).equals(users)
    with pytest.raises(SchemaError, match="a value of age that is not finite"):
        check("users", users.with_columns(age=pl.lit(float("nan"), pl.Float32)))


def test_links_are_whole_triples() -> None:
    links = pl.DataFrame({"head": ["x"], "relation": ["by"], "tail": ["ann"]})
    assert check("links", links).equals(links)
    with pytest.raises(SchemaError, match="an empty tail"):
        check("links", links.with_columns(tail=pl.lit("")))
