from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.offline import FeedbackLog, FeedbackRecord, Spool

RECORD = FeedbackRecord("f0", "u", "i", "click", 1.0, 1_700_000_000_000, None, None)


def records(n: int) -> list[FeedbackRecord]:
    return [replace(RECORD, feedback_id=f"f{number}") for number in range(n)]


def test_what_waits_is_delivered_in_order_and_once(tmp_path: Path):
    spool, delivered = Spool(tmp_path / "spool.jsonl"), []
    for record in records(3):
        spool.append(record)
    assert not spool.empty
    assert spool.replay(delivered.append) == 3
    assert delivered == records(3)
    assert spool.empty
    assert spool.replay(delivered.append) == 0


def test_what_could_not_be_delivered_waits_on(tmp_path: Path):
    spool, delivered = Spool(tmp_path / "spool.jsonl"), []
    for record in records(4):
        spool.append(record)

    def fail_at_the_third(record: FeedbackRecord) -> None:
        if len(delivered) == 2:
            raise ConnectionError
        delivered.append(record)

    with pytest.raises(ConnectionError):
        spool.replay(fail_at_the_third)
    assert not spool.empty
    assert spool.replay(delivered.append) == 2
    assert delivered == records(4)


def test_what_another_process_appends_during_a_replay_is_not_lost(tmp_path: Path):
    ours, theirs, delivered = Spool(tmp_path / "s.jsonl"), Spool(tmp_path / "s.jsonl"), []
    first, second = records(2)
    ours.append(first)

    def deliver(record: FeedbackRecord) -> None:
        delivered.append(record)
        if record == first:
            theirs.append(second)
            assert theirs.replay(delivered.append) == 0  # one replays at a time

    ours.replay(deliver)
    assert not theirs.empty
    theirs.replay(delivered.append)
    assert delivered == [first, second]


def test_a_queue_that_a_dead_process_had_taken_is_delivered(tmp_path: Path):
    spool, delivered = Spool(tmp_path / "spool.jsonl"), []
    spool.append(RECORD)
    (tmp_path / "spool.jsonl").rename(tmp_path / "spool.replaying")
    assert not spool.empty
    assert spool.replay(delivered.append) == 1
    assert delivered == [RECORD]


@settings(deadline=None, max_examples=30)
@given(torn=st.integers(1, 60))
def test_a_torn_line_is_set_aside_and_holds_nothing_up(tmp_path_factory, torn: int):
    directory = tmp_path_factory.mktemp("spool")
    first, second = records(2)
    path = directory / "spool.jsonl"
    path.write_bytes(first.pack()[:torn])
    spool, delivered = Spool(path), []
    spool.append(second)
    assert spool.replay(delivered.append) == 1
    assert delivered == [second]
    assert (directory / "spool.unreadable").read_bytes().rstrip() == first.pack()[:torn].rstrip()


def test_the_log_keeps_each_feedback_of_a_user_once_and_skips_a_torn_line(tmp_path: Path):
    log = FeedbackLog(tmp_path)
    for record in (RECORD, RECORD, replace(RECORD, user_id="v")):
        log.append(record)
    (path,) = tmp_path.glob("day=2023-11-14/*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"feedback_id"')
    log.append(replace(RECORD, feedback_id="f9"))
    table = FeedbackLog(tmp_path).read()
    assert sorted(zip(table["user_id"], table["feedback_id"], strict=True)) == [
        ("u", "f0"),
        ("u", "f9"),
        ("v", "f0"),
    ]


@pytest.mark.parametrize("timestamp_ms", [0, 253_402_300_799_999])
def test_times_at_the_ends_are_kept(tmp_path: Path, timestamp_ms: int):
    log = FeedbackLog(tmp_path)
    log.append(replace(RECORD, timestamp_ms=timestamp_ms))
    assert log.read()["timestamp_ms"].to_list() == [timestamp_ms]
