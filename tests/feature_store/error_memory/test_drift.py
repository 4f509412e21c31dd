import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.error_memory import ErrorBatch, MemoryPolicy
from feature_store.error_memory.drift import BLOCK, Adwin, DriftFlag, ErrorWatch, alarm_with
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.replica import MemoryReplica


def entries(error, n, *, classes=3):
    labels = np.eye(classes, dtype=np.float32)[np.zeros(n, int)]
    predictions = np.full((n, classes), error / (classes - 1), np.float32)
    predictions[:, 0] = 1 - error
    return ErrorBatch.of(np.zeros((n, 2), np.float32), labels, predictions)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    parts=st.lists(st.sampled_from([0.05, 0.3, 0.7]), min_size=1, max_size=4),
)
def test_the_window_shrinks_where_rivers_does(seed, parts):
    drift = pytest.importorskip("river.drift")
    theirs, ours = drift.ADWIN(), Adwin()
    rng = np.random.default_rng(seed)
    for p in parts:
        for value in (rng.random(400) < p).astype(float):
            theirs.update(value)
            assert ours.update(value) == theirs.drift_detected
            if theirs.drift_detected:  # theirs begins anew with the next value
                return
            assert ours.width == theirs.width
            assert ours.mean == pytest.approx(theirs.estimation)


def test_a_stream_that_does_not_change_gives_no_alarm():
    adwin = Adwin()
    rng = np.random.default_rng(0)
    assert sum(adwin.update(float(x < 0.3)) for x in rng.random(20_000)) <= 1
    assert adwin.width > 10_000


def test_more_errors_are_an_alarm_and_fewer_are_none():
    watch = ErrorWatch()
    assert watch.see(entries(0.1, 40 * BLOCK), 40 * BLOCK) is None
    alarm = watch.see(entries(0.6, 20 * BLOCK), 60 * BLOCK)
    assert alarm is not None
    assert alarm.before < alarm.after
    assert alarm.position == 60 * BLOCK
    assert watch.see(entries(0.05, 40 * BLOCK), 100 * BLOCK) is None
    stats = watch.stats()
    assert (stats.rises >= 1, stats.falls >= 1, stats.last_rise) == (True, True, 60 * BLOCK)
    assert stats.error < 0.3


def scores(label, predictions):
    labels = np.full((len(predictions), 1), label)
    return ErrorBatch.of(np.zeros((len(labels), 2)), labels, predictions[:, None])


def test_clicks_that_are_known_before_what_is_left_are_no_alarm_and_worse_scores_are():
    watch = ErrorWatch()
    rng = np.random.default_rng(0)
    for _ in range(6):  # days that begin with clicks, nine times as many items being left besides
        assert watch.see(scores(1, rng.uniform(0.05, 0.15, 2_000)), 0) is None
        assert watch.see(scores(0, rng.uniform(0.05, 0.15, 18_000)), 0) is None
    assert watch.see(scores(0, np.full(20 * BLOCK, 0.6)), 7) is not None
    assert watch.see(scores(1, np.full(20 * BLOCK, 0.01)), 8) is not None


def test_it_does_not_matter_how_entries_are_cut():
    rng = np.random.default_rng(1)
    whole = [entries(e, 30 * BLOCK + 7) for e in (0.1, 0.5)]
    one, many = ErrorWatch(), ErrorWatch()
    for batch in whole:
        one.see(batch, 0)
        start = 0
        while start < len(batch):
            stop = start + int(rng.integers(1, 50))
            many.see(batch[slice(start, stop)], 0)
            start = stop
    assert one.stats() == many.stats()


def test_the_flag_stays_until_it_is_cleared(redis_client):
    flag = DriftFlag(redis_client, model="m")
    assert flag.read() is None
    watch = ErrorWatch()
    watch.see(entries(0.1, 40 * BLOCK), 0)
    flag.raise_("v1", watch.see(entries(0.9, 40 * BLOCK), 7))
    assert (flag.read()["version"], flag.read()["position"]) == ("v1", 7)
    flag.clear()
    assert flag.read() is None


def test_a_replica_raises_the_alarm_of_what_it_sees_and_not_of_what_it_finds(redis_client):
    log = MemoryLog(redis_client, model="m", version="v1")
    flag = DriftFlag(redis_client, model="m")

    def replica():
        alarm = alarm_with(redis_client, model="m", version="v1")
        found = MemoryReplica(log, MemoryPolicy(), d=2, n_classes=3, on_drift=alarm)
        found.catch_up()
        return found

    log.append(entries(0.1, 40 * BLOCK))
    watching = replica()
    log.append(entries(0.8, 20 * BLOCK))
    watching.poll()
    told = flag.read()
    assert (told["version"], told["position"]) == ("v1", 60 * BLOCK)
    assert told["after"] > told["before"]
    flag.clear()
    late = replica()
    assert late.drift == watching.drift
    assert late.drift.rises >= 1  # a window can shrink in several steps
    assert flag.read() is None
