import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.error_memory import named_policy
from pipelines.memory.metrics import auc, expected_calibration_error, grouped_auc, macro_f1
from pipelines.memory.prequential import batches, by_the_clock, replay
from pipelines.memory.ratings import Events, histories, load_events
from pipelines.memory.stream import Stream
from pipelines.memory.tuning import tune


def stream_of(n, *, drift, seed=0):
    """Two classes; the model is right where the first key is far from 0, if nothing drifts."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(-3, 4, (n, 4)).astype(np.float32) / 4
    truth = (keys[:, 0] > 0) ^ (drift & (keys[:, 1] > 0))
    said = np.clip((keys[:, 0] > 0) * 0.8 + 0.1, 0, 1)
    nothing = np.zeros(n, np.int64)
    return Stream(
        inputs=keys,
        keys=keys,
        predictions=np.stack([1 - said, said], 1).astype(np.float32),
        labels=np.eye(2, dtype=np.float32)[truth.astype(int)],
        groups=nothing,
        items=nothing,
        time_s=nothing.astype(np.float64),
    )


@given(n=st.integers(1, 3000), delay=st.sampled_from([256, 500, 2000]))
def test_no_label_arrives_before_its_delay(n, delay):
    known = 0
    for arrived, now in batches(n, delay=delay):
        assert arrived.start == known
        known = arrived.stop
        assert known == 0 or now.start - known >= delay - 256


@given(
    gaps=st.lists(st.sampled_from([0.0, 1.0, 30.0, 100.0]), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_by_the_clock_a_label_arrives_once_when_it_is_due_or_never(gaps, share, seed):
    time_s = np.cumsum(gaps)
    labelled = np.random.default_rng(seed).random(len(gaps)) < share
    known, predicted = [], []
    for arrived, now in by_the_clock(time_s, labelled, delay_s=60.0):
        known += arrived.tolist()
        for moment in (time_s[now.start], time_s[now.stop - 1]):
            assert known == np.flatnonzero(labelled & (time_s + 60.0 <= moment)).tolist()
        predicted += range(now.start, now.stop)
    assert predicted == list(range(len(gaps)))


def test_a_memory_follows_a_drift_and_late_labels_help_less():
    stream = stream_of(6_000, drift=True)
    frozen = macro_f1(stream.labels, stream.predictions)
    fresh = macro_f1(stream.labels, replay(stream, named_policy("ring"), delay=256).corrected)
    assert fresh > frozen + 0.2


def test_the_tuner_finds_a_gain_where_there_is_one_and_switches_off_where_there_is_none():
    few = [named_policy("ring"), named_policy("mixture")]
    assert tune(stream_of(3_000, drift=True), delays=(256,), policies=few).policy.enabled
    right = stream_of(3_000, drift=False)
    noise = np.random.default_rng(0).random(3_000) < 0.1
    labels = np.where(noise[:, None], right.labels[:, ::-1], right.labels)
    honest = Stream(**{**right.__dict__, "labels": labels.astype(np.float32)})
    assert not tune(honest, delays=(256,), policies=few).policy.enabled


def test_auc_counts_ties_half_and_groups_apart():
    labels = np.array([[1], [0], [1], [0]], np.float32)
    assert auc(labels, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert auc(labels, np.array([0.9, 0.1, 0.8, 0.2])) == 1.0
    groups = np.array([0, 0, 1, 1])
    assert grouped_auc(labels, np.array([0.2, 0.1, 0.9, 0.9]), groups) == 0.75
    assert np.isnan(auc(labels[:1], np.array([0.3])))


def test_a_calibrated_score_has_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.random((50_000, 1)).astype(np.float32)
    labels = (rng.random((50_000, 1)) < p).astype(np.float32)
    assert expected_calibration_error(labels, p) < 0.01
    assert expected_calibration_error(labels, np.sqrt(p)) > 0.1


def test_a_history_holds_what_was_chosen_strictly_before():
    events = Events(
        users=np.array([0, 0, 0, 0]),
        items=np.array([5, 6, 7, 8]),
        labels=np.array([1, 0, 1, 1], np.float32),
        time_s=np.array([1.0, 2.0, 3.0, 3.0]),
    )
    told = histories(events)
    assert told[:, :2].tolist() == [[0, 0], [6, 0], [6, 0], [6, 0]]


def test_ratings_are_read_with_real_negatives_and_events_get_drawn_ones(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,9,5,20\n1,8,2,10\n")
    events = load_events(tmp_path, negatives="", seed=0)
    assert events.labels.tolist() == [0, 1]
    (tmp_path / "ratings.csv").write_text("user_id\titem_id\ttime\n1\t9\t20\n1\t8\t10\n")
    assert load_events(tmp_path, negatives="now", seed=0).labels.tolist() == [1, 0, 1, 0]
    (tmp_path / "ratings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column"):
        load_events(tmp_path, negatives="", seed=0)
