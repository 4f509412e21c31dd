import json
from pathlib import Path

import polars as pl
import pytest

from feature_store.interactions.rejects import (
    LINE,
    ROW,
    Reject,
    RejectPolicy,
    Rejects,
    TooManyRejects,
)


def add(rejects: Rejects, line: int, row: str, reason: str) -> None:
    rejects.reject(pl.DataFrame({LINE: [line], ROW: [row]}), file="log.csv", reason=reason)


def some_rejects(policy: RejectPolicy, path: Path | None = None) -> Rejects:
    rejects = Rejects(policy=policy, path=path)
    rejects.saw(100)
    add(rejects, 7, "a,,1", "missing item_id")
    add(rejects, 9, "a,x,no", "unparsable timestamp")
    add(rejects, 12, "b,x,no", "unparsable timestamp")
    return rejects


def test_keep_returns_the_good_rows_and_keeps_the_raw_form_of_the_others() -> None:
    frame = pl.DataFrame({LINE: [2, 3, 4], ROW: ["1,a", "x,b", ",c"], "n": [1, None, 3]})
    rejects = Rejects()
    kept = rejects.keep(frame, pl.col("n") < 3, file="f.csv", reason="too large")
    assert kept["n"].to_list() == [1]
    assert rejects.first() == [
        Reject("f.csv", 3, "too large", "x,b"),
        Reject("f.csv", 4, "too large", ",c"),
    ]


def test_without_a_raw_row_the_values_are_kept_as_json() -> None:
    rejects = Rejects()
    frame = pl.DataFrame({LINE: [1], "user_id": ["a"], "weight": [-1.0]})
    rejects.keep(frame, pl.lit(False), file="f.parquet", reason="negative")
    assert json.loads(rejects.first()[0].row) == {"user_id": "a", "weight": -1.0}


def test_rejects_are_counted_by_reason() -> None:
    rejects = some_rejects(RejectPolicy())
    assert rejects.count == 3
    assert rejects.share == 0.03
    assert list(rejects.by_reason.items()) == [("unparsable timestamp", 2), ("missing item_id", 1)]
    assert [r.line for r in rejects.first(2)] == [7, 9]


def test_too_many_say_how_many_which_why_where_and_what_next(tmp_path: Path) -> None:
    path = tmp_path / "out" / "rejects.jsonl"
    with pytest.raises(TooManyRejects) as raised:
        some_rejects(RejectPolicy(max_share=0.02), path).settle()
    message = str(raised.value)
    assert "3 of 100 rows (3.00%)" in message
    assert "limit is 2.00%" in message
    assert "log.csv:7: missing item_id: a,,1" in message
    assert "2 unparsable timestamp" in message
    assert str(path) in message
    assert "--max-reject-share 0.03" in message
    assert (raised.value.count, raised.value.total, raised.value.limit) == (3, 100, 0.02)


def test_the_advised_share_is_enough(tmp_path: Path) -> None:
    rejects = Rejects(policy=RejectPolicy(max_share=0.0), path=tmp_path / "r.jsonl")
    rejects.saw(7_001)
    add(rejects, 1, "", "bad")
    with pytest.raises(TooManyRejects) as raised:
        rejects.settle()
    advised = float(str(raised.value).rpartition("--max-reject-share ")[2].rstrip("."))
    rejects.policy = RejectPolicy(max_share=advised)
    rejects.settle()


def test_a_tolerated_share_is_still_written_down(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    some_rejects(RejectPolicy(max_share=0.03), path).settle()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {"file": "log.csv", "line": 7, "reason": "missing item_id", "row": "a,,1"}
    assert len(rows) == 3


def test_no_reject_no_file(tmp_path: Path) -> None:
    rejects = Rejects(path=tmp_path / "rejects.jsonl")
    rejects.saw(10)
    rejects.settle()
    assert not list(tmp_path.iterdir())


def test_long_rows_are_shortened_in_the_message_only(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    rejects = Rejects(path=path)
    rejects.saw(1)
    add(rejects, 1, "x" * 5000, "bad")
    with pytest.raises(TooManyRejects) as raised:
        rejects.settle()
    assert len(str(raised.value)) < 1000
    assert "x" * 5000 in path.read_text()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_zero_to_one(share: float) -> None:
    with pytest.raises(ValueError, match="max_share"):
        RejectPolicy(max_share=share)
