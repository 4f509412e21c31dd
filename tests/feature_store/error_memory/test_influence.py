"""Which entries speak loudest, how many are heard, and that one alone can be cut out."""

import numpy as np
import pytest

from feature_store.error_memory import ErrorBatch, ErrorMemory, Kernel, MemoryPolicy
from feature_store.error_memory.course import course
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.replica import MemoryReplica

D = 8
POLICY = MemoryPolicy(
    capacity=256, slots=8, bits=4, kernels=(Kernel(beta=30.0, half_life=50.0),), base_prior=0.5
)


def entries(keys: np.ndarray, *, labels: list[float], predictions: list[float], first: int = 1):
    n = len(keys)
    losses = np.tile(np.array([0.9, 0.5, 0.4], np.float32), (n, 1))
    return ErrorBatch.of(
        keys.astype(np.float32),
        np.array(labels, np.float32)[:, None],
        np.array(predictions, np.float32)[:, None],
        losses=losses,
        time_ms=np.arange(n, dtype=np.int64) + 1_000 * first,
        sources=np.full(n, 7, np.uint64),
        feedback_ids=np.arange(first, first + n, dtype=np.uint64),
    )


def places(n: int) -> np.ndarray:
    return np.eye(D)[:n]


def test_the_largest_and_the_newest_errors_come_first():
    memory = ErrorMemory(POLICY, d=D, n_classes=1)
    memory.write(entries(places(3), labels=[1, 1, 1], predictions=[0.9, 0.1, 0.5]))
    assert memory.influential(3).feedback_ids.tolist() == [2, 3, 1]
    memory.advance(500)
    memory.write(entries(places(1), labels=[0], predictions=[0.2], first=9))
    found = memory.influential(2)
    assert found.feedback_ids.tolist() == [9, 2]
    trust = memory.stats().weights["kernel β=30 t½=50"]
    assert found.influence[0] == pytest.approx(0.2 * trust * 0.5 ** (1 / 50), rel=1e-3)
    assert found.ages.tolist() == [1, 501 - 1]


def test_only_what_is_near_is_heard():
    memory = ErrorMemory(POLICY, d=D, n_classes=1)
    near = places(1) + 0.01 * np.random.default_rng(0).standard_normal((3, D))
    memory.write(entries(near, labels=[1] * 3, predictions=[0.1] * 3))
    assert memory.heard(np.concatenate([places(1), -places(1)]).astype(np.float32)).tolist() == [
        3,
        0,
    ]


def test_what_moves_a_prediction_is_what_is_near_it():
    memory = ErrorMemory(POLICY, d=D, n_classes=1)
    at = places(1)[0].astype(np.float32)
    near, far = at + 0.2 * places(2)[1], -at
    memory.write(entries(np.stack([far, near, at]), labels=[1, 1, 1], predictions=[0.1, 0.1, 0.5]))
    assert memory.influential(3).feedback_ids.tolist() == [2, 1, 3]
    found = memory.influential(3, at=at)
    assert found.feedback_ids.tolist() == [3, 2]
    trust = memory.stats().weights["kernel β=30 t½=50"]
    heard = np.exp(-30 * 0.2**2) * 0.5 ** (2 / 50)
    assert found.influence[1] == pytest.approx(0.9 * trust * heard, rel=1e-2)


def test_a_policy_without_neighbours_has_none_to_show():
    memory = ErrorMemory(MemoryPolicy(), d=D, n_classes=1)
    memory.write(entries(places(2), labels=[1, 0], predictions=[0.5, 0.5]))
    assert len(memory.influential(5).influence) == 0
    assert len(memory.influential(5, at=places(1)[0].astype(np.float32)).influence) == 0
    assert memory.heard(places(2).astype(np.float32)).tolist() == [0, 0]


def test_reads_that_met_an_entry_are_counted():
    memory = ErrorMemory(POLICY, d=D, n_classes=1)
    memory.write(entries(places(1), labels=[1], predictions=[0.2]))
    memory.read(
        np.concatenate([places(1), -places(1)]).astype(np.float32), np.full((2, 1), 0.2, np.float32)
    )
    stats = memory.stats()
    assert (stats.reads, stats.hits) == (2, 1)


def test_one_entry_can_be_cut_out_everywhere(redis_client):
    log = MemoryLog(redis_client, model="m", version="v")
    replica = MemoryReplica(log, POLICY, d=D, n_classes=1)
    log.append(entries(places(3), labels=[1, 1, 1], predictions=[0.9, 0.1, 0.5]))
    replica.poll()
    log.forget_entry(2)
    replica.poll()
    assert replica.memory.influential(3).feedback_ids.tolist() == [3, 1]
    later = MemoryReplica(log, POLICY, d=D, n_classes=1)
    later.catch_up()
    assert len(later.memory) == 2


def test_the_course_tells_the_error_before_and_after_in_the_order_of_time(redis_client):
    log = MemoryLog(redis_client, model="m", version="v")
    assert course(log) == []
    for part in range(5):
        keys = np.random.default_rng(part).standard_normal((8, D))
        log.append(entries(keys, labels=[1] * 8, predictions=[0.3] * 8, first=10 * part + 1))
    points = course(log)
    assert [each.outcomes for each in points] == [8] * 5
    assert [each.time_ms for each in points] == sorted(each.time_ms for each in points)
    assert points[0].before == pytest.approx(0.9, rel=1e-3)
    assert points[0].after == pytest.approx(0.4, rel=1e-3)
    assert sum(each.outcomes for each in course(log, outcomes=16)) == 16
