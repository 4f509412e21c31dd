import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.rejects import RejectPolicy, Rejects, TooManyRejects
from feature_store.interactions.schema import TABLES, TIMESTAMP, SchemaError

# Neither `\r` (a line end in text files) nor, in categories, the separator and outer spaces.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=5)
IDS = TEXT.filter(str.strip)
CATEGORY = st.text("abcé, \"'", min_size=1, max_size=4).map(str.strip).filter(bool)
CATEGORIES = st.none() | st.lists(CATEGORY, min_size=1, max_size=3)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
MS = st.integers(0, 4_000_000_000_000).map(
    lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)


def frame(rows: list[tuple[Any, ...]], schema: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema, orient="row")


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    timed, split = draw(st.booleans()), draw(st.booleans())
    weight = st.floats(2.0**-20, 2.0**20, width=32)
    row = [IDS, IDS, MS if timed else st.none(), IDS, weight]
    schema = {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": TIMESTAMP,
        "type": pl.String,
        "weight": pl.Float32,
    }
    if split:
        row.append(st.sampled_from(["train", "validation", "test"]))
        schema["split"] = pl.String
    interactions = frame(draw(st.lists(st.tuples(*row), min_size=1, max_size=6)), schema)
    item = st.tuples(IDS, IDS, st.none() | TEXT, CATEGORIES)
    items = frame(
        draw(st.lists(item, max_size=4, unique_by=lambda row: row[0])),
        {"item_id": pl.String, "item_type": pl.String, "title": pl.String}
        | {"genres": pl.List(pl.String)},
    )
    user = st.tuples(IDS, st.none() | FLOAT32, CATEGORIES)
    users = frame(
        draw(st.lists(user, max_size=4, unique_by=lambda row: row[0])),
        {"user_id": pl.String, "age": pl.Float32, "city": pl.List(pl.String)},
    )
    links = frame(
        draw(st.lists(st.tuples(IDS, IDS, IDS), max_size=4)),
        dict.fromkeys(("head", "relation", "tail"), pl.String),
    )
    return Dataset(
        interactions,
        items,
        draw(st.sampled_from([None, users])),
        draw(st.sampled_from([None, links])),
    )


def write_csv(dataset: Dataset, folder: Path) -> None:
    """What a user's own program would write: the standard library's CSV."""
    for name in TABLES:
        table = getattr(dataset, name)
        if table is None:
            continue
        lists = [column for column, dtype in table.schema.items() if dtype == pl.List(pl.String)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(f"{c}[]" if c in lists else c for c in table.columns)
        for row in table.iter_rows():
            cells = ("|".join(cell) if isinstance(cell, list) else cell for cell in row)
            writer.writerow(c.isoformat() if isinstance(c, datetime) else c for c in cells)
        (folder / f"{name}.csv").write_text(out.getvalue(), encoding="utf-8", newline="")


def assert_same(one: Dataset, other: Dataset) -> None:
    for name in TABLES:
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        if left is not None:
            assert_frame_equal(left, right)


@settings(max_examples=30, deadline=None)
@given(datasets())
def test_what_is_written_is_read(dataset: Dataset) -> None:
    with TemporaryDirectory() as folder:
        dataset.write(folder)
        read = Dataset.read(folder)
    assert_same(dataset, read)
    assert read.fingerprint() == dataset.fingerprint()
    assert read.items_added == 0


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_csv_and_parquet_hold_the_same(dataset: Dataset) -> None:
    with TemporaryDirectory() as folder:
        write_csv(dataset, Path(folder))
        read = Dataset.read(folder, rejects=Rejects(policy=RejectPolicy(max_share=0)))
    assert_same(dataset, read)
    assert read.fingerprint() == dataset.fingerprint()


@settings(max_examples=30, deadline=None)
@given(datasets(), st.data())
def test_the_fingerprint_ignores_chunks_and_the_order_of_columns(
    dataset: Dataset, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, dataset.interactions.height))
    log = dataset.interactions
    chunked = pl.concat([log[:cut], log[cut:]], rechunk=False).select(reversed(log.columns))
    other = Dataset(chunked, dataset.items, dataset.users, dataset.links)
    assert other.fingerprint() == dataset.fingerprint()


def test_the_fingerprint_tells_contents_apart() -> None:
    def fingerprint(users: list[str], items: list[str], title: str | None = None) -> str:
        log = pl.DataFrame({"user_id": users, "item_id": items})
        catalogue = pl.DataFrame(
            {"item_id": items, "title": title}, {"item_id": pl.String, "title": pl.String}
        )
        return Dataset(log, catalogue).fingerprint()

    prints = {
        fingerprint(["a", "b"], ["x", "y"]),
        fingerprint(["b", "a"], ["y", "x"]),
        fingerprint(["ab", "c"], ["x", "y"]),
        fingerprint(["a", "bc"], ["x", "y"]),
        fingerprint(["a", "b"], ["x", "y"], title="t"),
    }
    assert len(prints) == 5


def test_the_fingerprint_never_changes_between_versions() -> None:
    # Registries hold it as lineage: a change here needs a reason and a note to users.
    log = pl.DataFrame({"user_id": ["ann"], "item_id": ["tea"]})
    expected = "1ad0230fc43cc7d863faa2f784ee991f22d5040b7006e469ed187982bd6a7ff6"
    assert Dataset(log).fingerprint() == expected


def test_items_that_only_interactions_name_are_added_and_counted() -> None:
    log = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["y", "x", "z"]})
    items = pl.DataFrame({"item_id": ["x"], "item_type": ["tea"], "title": ["Assam"]})
    dataset = Dataset(log, items)
    assert dataset.items_added == 2
    assert dataset.items.rows() == [
        ("x", "tea", "Assam"),
        ("y", "item", None),
        ("z", "item", None),
    ]


def test_the_summary_counts() -> None:
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
    log = pl.DataFrame(
        {"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "type": ["view", "buy", "view"]}
    ).with_columns(timestamp=pl.Series(times, dtype=TIMESTAMP))
    users = pl.DataFrame({"user_id": ["b", "c"]})
    summary = Dataset(log, users=users).summary()
    assert (summary.interactions, summary.users, summary.items) == (3, 3, 2)
    assert summary.types == {"view": 2, "buy": 1}
    assert summary.item_types == {"item": 2}
    assert summary.splits == {}
    assert (summary.first, summary.last) == (times[1], times[0])
    assert summary.links == 0


def test_a_dataset_is_checked_when_it_is_made() -> None:
    with pytest.raises(SchemaError, match="no column item_id"):
        Dataset(pl.DataFrame({"user_id": ["a"]}))


def small() -> Dataset:
    log = pl.DataFrame({"user_id": ["a"], "item_id": ["x"]})
    links = pl.DataFrame({"head": ["x"], "relation": ["by"], "tail": ["ann"]})
    return Dataset(log, links=links)


def test_writing_again_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    small().write(tmp_path)
    Dataset(small().interactions).write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interactions.parquet", "items.parquet"]
    assert Dataset.read(tmp_path).links is None


def test_a_table_is_never_there_twice(tmp_path: Path) -> None:
    (tmp_path / "links.csv").write_text("movieId,imdbId\n1,2\n")
    with pytest.raises(ValueError, match=r"already holds links.csv"):
        small().write(tmp_path)
    (tmp_path / "links.csv").unlink()
    small().write(tmp_path)
    (tmp_path / "links.csv").write_text("head,relation,tail\n")
    with pytest.raises(ValueError, match=r"holds links twice: links.parquet, links.csv"):
        Dataset.read(tmp_path)


def test_bad_rows_of_a_csv_are_limited(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id\na,x\na,\nb,x,9\n")
    with pytest.raises(TooManyRejects) as raised:
        Dataset.read(tmp_path)
    assert "interactions.csv:3: missing item_id: a," in str(raised.value)
    assert "interactions.csv:4: wrong number of columns: b,x,9" in str(raised.value)
    rejects = Rejects(policy=RejectPolicy(max_share=0.7))
    assert Dataset.read(tmp_path, rejects=rejects).interactions.height == 1
    assert rejects.total == 3


def test_an_empty_folder_and_none_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected interactions.parquet"):
        Dataset.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Dataset.read(tmp_path / "nowhere")


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "interactions.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"interactions.parquet is no Parquet file"):
        Dataset.read(tmp_path)
