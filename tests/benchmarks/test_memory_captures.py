import numpy as np

from benchmarks.memory_captures import evenly, f1_by_class, mixed
from pipelines.memory.stream import Stream


def test_mixing_keeps_each_classes_order_and_spreads_it_over_the_same_span():
    truth = np.array([0] * 30 + [1] * 10 + [2] * 20)
    n = len(truth)
    nothing = np.zeros(n, np.int64)
    place = np.arange(n, dtype=np.float32)[:, None]
    stream = Stream(
        inputs=place,
        keys=place,
        predictions=np.full((n, 3), 1 / 3, np.float32),
        labels=np.eye(3, dtype=np.float32)[truth],
        groups=nothing,
        items=nothing,
        time_s=np.arange(n) * 1000.0,
    )
    found = mixed(stream)
    label = found.labels.argmax(1)
    assert (np.diff(found.time_s) >= 0).all()
    assert found.time_s[-1] <= n
    for each, count in ((0, 30), (1, 10), (2, 20)):
        assert (np.diff(found.keys[label == each, 0]) > 0).all()
        assert (label[: n // 2] == each).sum() == count // 2


def test_f1_of_a_class_that_is_never_decided_is_zero():
    f1 = f1_by_class(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 4)
    np.testing.assert_allclose(f1, [2 / 3, 1 / 2, 0, 0])


def test_classes_are_left_out_evenly():
    assert evenly(range(12), 4) == [0, 3, 6, 9]
    assert evenly(range(3), 9) == [0, 1, 2]
