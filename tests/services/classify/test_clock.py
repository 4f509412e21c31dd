from pathlib import Path

import numpy as np
import pytest

from feature_store.traffic.capture import PacketBatch, open_capture
from services.classify.clock import Replay
from services.classify.stream import ServedEdition, StreamClassifier
from tests.services.classify.conftest import packets_of, said, verdicts_of

MS = 1_000_000


class Time:
    """A clock whose hands move when somebody sleeps."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def sleep(self, seconds: float) -> None:
        self.now_ns += max(round(seconds * 1e9), 1)

    def monotonic_ns(self) -> int:
        return self.now_ns


def stamped(times_ms: list[int]) -> PacketBatch:
    return PacketBatch.from_packets(
        [b"x"] * len(times_ms), timestamp_ns=[1_000 * MS + at * MS for at in times_ms]
    )


def replay(batches: list[PacketBatch], speed: float = 1.0) -> list[tuple[int, int]]:
    """(milliseconds since the start, packets) of each batch that comes."""
    time = Time()
    replayed = Replay(
        batches, speed=speed, sleep=time.sleep, monotonic_ns=time.monotonic_ns, poll_s=0.02
    )
    return [((time.now_ns - 5_000_000_000) // MS, len(batch)) for batch in replayed]


def test_packets_come_when_they_are_due() -> None:
    assert replay([stamped([0, 3, 3, 10]), stamped([12])]) == [(0, 1), (3, 2), (10, 1), (12, 1)]


def test_twice_the_speed_is_half_the_time() -> None:
    assert replay([stamped([0, 10, 20])], speed=2) == [(0, 1), (5, 1), (10, 1)]


def test_silence_lets_time_pass() -> None:
    assert replay([stamped([0, 50])]) == [(0, 1), (20, 0), (40, 0), (50, 1)]


def test_a_clock_that_goes_back_does_not_hold_up_what_follows() -> None:
    assert replay([stamped([0, 10]), stamped([4, 11])]) == [(0, 1), (10, 1), (10, 1), (11, 1)]


def test_age_is_the_walls_time_since_a_packet_was_due() -> None:
    time = Time()
    replayed = Replay([stamped([0, 20])], speed=2, sleep=time.sleep, monotonic_ns=time.monotonic_ns)
    for batch in replayed:
        time.now_ns += 7 * MS
        assert replayed.age_ns(int(batch.timestamp_ns[-1])) == 7 * MS


def test_speed_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="speed"):
        Replay([], speed=0)


def test_a_replay_says_the_same_as_the_file(served: ServedEdition, mixed: Path) -> None:
    time = Time()
    with open_capture(mixed) as capture:
        replayed = Replay(capture, sleep=time.sleep, monotonic_ns=time.monotonic_ns)
        classifier = StreamClassifier(served, clock=replayed)
        live = verdicts_of(replayed, classifier, replayed)
    assert said(live) == said(verdicts_of([packets_of(mixed)], StreamClassifier(served)))
    assert not +classifier.counts.shed
    assert len(classifier.counts.latency_ns) == sum(v.reason != "flow_end" for v in live)
    assert np.max(classifier.counts.latency_ns) < 1_000 * MS
