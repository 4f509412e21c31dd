import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import redis

from feature_store.error_memory import ErrorBatch, MemoryPolicy
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.replica import MemoryReplica
from feature_store.error_memory.wire import CorruptEntryError, pack, unpack
from feature_store.online import EmbeddedRedis, connect
from tests.patience import within

eventually = within(20)

POLICY = MemoryPolicy.model_validate(
    {
        "kernels": [{"beta": 10.0, "half_life": 500.0}],
        "sketches": [{"bits": 4, "half_life": 300.0}],
        "capacity": 1024,
        "slots": 16,
    }
)
D, CLASSES = 4, 3


def batch(seed, n=64, *, ids=None, source="", shift=0.0):
    rng = np.random.default_rng(seed)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, n)]
    return ErrorBatch.of(
        (rng.standard_normal((n, D)) + shift).astype(np.float32),
        labels,
        rng.dirichlet(np.ones(CLASSES), n).astype(np.float32),
        losses=rng.random((n, POLICY.n_experts + 1)).astype(np.float32),
        sources=np.full(n, source_id(source), np.uint64),
        feedback_ids=np.array(ids if ids is not None else [0] * n, np.uint64),
        time_ms=np.arange(n),
    )


@pytest.fixture
def log(redis_client):
    return MemoryLog(redis_client, model="m", version="v1")


def replica_of(log, **changes):
    replica = MemoryReplica(log, POLICY.model_copy(update=changes), d=D, n_classes=CLASSES)
    replica.catch_up()
    return replica


def answers(replica):
    probe = batch(99, 40)
    return replica.read(probe.keys, probe.predictions).corrected


def test_entries_survive_the_wire():
    one = batch(0, 5, ids=range(1, 6), source="probe")
    header, records = pack(one)
    back = unpack(header + records.tobytes())
    np.testing.assert_allclose(back.keys, one.keys, rtol=1e-3)
    for name in ("labels", "predictions", "weights", "time_ms", "sources", "feedback_ids"):
        np.testing.assert_array_equal(getattr(back, name), getattr(one, name))
    for broken in (b"", b"nothing of ours", header + records.tobytes()[:-1]):
        with pytest.raises(CorruptEntryError):
            unpack(broken)


def test_a_feedback_id_counts_once_within_and_across_batches(log):
    assert log.append(batch(0, 4, ids=[1, 2, 2, 3])).entries == 3
    assert log.append(batch(1, 3, ids=[3, 4, 1])).entries == 1
    assert log.append(batch(2, 2, ids=[1, 2])).entries == 0
    assert log.position() == 4
    (_, first), (_, second) = log.entries()
    assert first.feedback_ids.tolist() + second.feedback_ids.tolist() == [1, 2, 3, 4]


def test_the_stream_is_capped_in_entries(redis_client):
    log = MemoryLog(redis_client, model="m", version="v1", cap=100)
    for seed in range(10):
        log.append(batch(seed, 20))
    kept = list(log.entries())
    assert 100 <= sum(len(each) for _, each in kept) <= 120
    assert log.position() == 200


def test_the_newest_entries_are_whole_batches_but_for_the_first(log):
    assert log.newest(3) == []
    for seed in range(4):
        log.append(batch(seed, 5))
    found = log.newest(12)
    assert [len(each) for each in found] == [2, 5, 5]
    np.testing.assert_array_equal(found[0].time_ms, [3, 4])
    np.testing.assert_array_equal(found[2].labels, batch(3, 5).labels)
    assert [len(each) for each in log.newest(10)] == [5, 5]
    assert sum(len(each) for each in log.newest(100)) == 20


def test_the_entries_of_a_source_are_counted(log):
    log.append(batch(1, 5, source="ann"))
    log.append(batch(2, 7, source="bob"))
    assert [log.said_by(name) for name in ("ann", "bob", "nobody")] == [5, 7, 0]


def test_versions_and_tenants_do_not_see_each_other(redis_client, log):
    log.append(batch(0))
    assert MemoryLog(redis_client, model="m", version="v2").position() == 0
    assert MemoryLog(redis_client, model="m", version="v1", tenant="other").position() == 0


def test_a_replica_that_starts_late_answers_like_one_that_was_there(log):
    early = replica_of(log)
    for seed in range(5):
        log.append(batch(seed))
        early.poll()
    np.testing.assert_array_equal(answers(early), answers(replica_of(log)))
    assert early.position == log.position() == 320


def test_what_one_replica_writes_another_reads_within_a_second(log, redis_server):
    other = MemoryReplica(
        MemoryLog(connect(redis_server.url, timeout_s=5), model="m", version="v1"),
        POLICY,
        d=D,
        n_classes=CLASSES,
    )
    other.catch_up()
    other.start()
    try:
        log.append(batch(0))
        started = time.monotonic()
        eventually(lambda: other.position == 64)
        assert time.monotonic() - started < 1
    finally:
        other.stop()


def test_a_poisoned_source_is_cut_out_everywhere_and_stays_out(log):
    clean = replica_of(log)
    log.append(batch(0, source="honest"))
    clean.poll()
    before = answers(clean)
    log.append(batch(1, source="mallory"))
    clean.poll()
    assert not np.array_equal(answers(clean), before)
    log.forget_source("mallory")
    clean.poll()
    late = replica_of(log)
    log.append(batch(2, source="mallory"))
    for replica in (clean, late):
        replica.poll()
    np.testing.assert_array_equal(answers(clean), answers(late))
    assert clean.memory.stats().entries == late.memory.stats().entries <= 64


def test_off_and_on_and_another_policy_reach_every_replica(log):
    replica = replica_of(log)
    log.append(batch(0))
    replica.poll()
    corrected = answers(replica)
    log.decide("off")
    replica.poll()
    np.testing.assert_array_equal(answers(replica), batch(99, 40).predictions)
    log.decide("on")
    replica.poll()
    np.testing.assert_array_equal(answers(replica), corrected)
    log.decide("policy", **POLICY.model_copy(update={"evidence": 100.0}).model_dump(mode="json"))
    replica.poll()
    assert replica.policy.evidence == 100.0
    assert not np.array_equal(answers(replica), corrected)


def test_a_policy_that_nobody_can_read_is_left_out_and_what_follows_counts(log):
    replica = replica_of(log)
    replica.start()
    try:
        log.append(batch(0))
        log.decide("policy", kernels="of a later release")
        log.decide("off")
        eventually(lambda: not replica.policy.enabled)
        log.decide("on")
        eventually(lambda: replica.policy == POLICY and replica.fresh)
    finally:
        replica.stop()
    np.testing.assert_array_equal(answers(replica), answers(replica_of(log)))


def test_a_message_that_nobody_can_read_is_left_out_and_the_rest_goes_on(log, redis_client):
    replica = replica_of(log)
    log.append(batch(0))
    redis_client.xadd(log.key, {"b": b"of a later release"}, id="65-0")
    log.append(batch(1))
    replica.poll()
    assert replica.position == 129
    late = replica_of(log)
    assert late.position == 129
    np.testing.assert_array_equal(answers(replica), answers(late))
    assert len(log.newest(200)) == 2


def test_decisions_reach_the_next_version_whatever_happened_between(redis_client, log):
    second = MemoryLog(redis_client, model=log.model, version="v2")
    third = MemoryLog(redis_client, model=log.model, version="v3")
    log.forget_source("mallory")
    log.decide("off")
    second.forget_source("trudy")
    third.decide("policy", **POLICY.model_dump(mode="json"))  # tuned before it serves
    third.inherit("v2")
    third.inherit("v2")  # a process died meanwhile: once again
    assert third.left_out()[0] == {source_id("mallory"), source_id("trudy")}
    assert [each.kind for each in third.controls()[0]].count("forget") == 2
    fourth = MemoryLog(redis_client, model=log.model, version="v4")
    fourth.forget_source("trudy")  # before it serves
    fourth.inherit(log.version)
    assert [each.kind for each in fourth.controls()[0]].count("off") == 1
    assert fourth.left_out() == third.left_out()
    other = MemoryLog(redis_client, model="other", version="v1")
    other.inherit(None)
    assert other.controls()[0] == []


def test_what_nobody_serves_any_more_goes_after_a_month(log, redis_client):
    log.append(batch(0))
    log.decide("on")
    replica = replica_of(log)
    replica.start()
    try:
        eventually(lambda: redis_client.ttl(log.key) > 29 * 86_400)
        eventually(lambda: redis_client.ttl(f"{log.key}:control") > 29 * 86_400)
        redis_client.expire(log.key, 60)
    finally:
        replica.stop()
    again = replica_of(log)
    again.start()
    try:
        eventually(lambda: redis_client.ttl(log.key) > 29 * 86_400)
    finally:
        again.stop()


def test_a_switch_reads_nothing_anew(log):
    replica = replica_of(log)
    log.append(batch(0))
    replica.poll()
    corrected, memory = answers(replica), replica.memory
    for decision in ("off", "on"):
        log.decide(decision)
        replica.poll()
        assert replica.memory is memory
    np.testing.assert_array_equal(answers(replica), corrected)
    log.forget_source("nobody")
    replica.poll()
    assert replica.memory is not memory


def test_whoever_was_forgotten_stays_so_without_a_name(log, redis_client):
    log.append(batch(0, source="mallory"))
    log.forget_source("mallory")
    log.erase_name("mallory")
    assert not [
        key
        for key in redis_client.keys("*control")
        if b"mallory" in str(redis_client.xrange(key)).encode()
    ]
    assert replica_of(log).memory.stats().entries == 0


def test_entries_of_another_shape_are_left_out_and_the_rest_goes_on(log):
    replica = replica_of(log)
    log.append(ErrorBatch.of(np.zeros((2, 7)), np.zeros((2, 1)), np.zeros((2, 1))))
    log.append(batch(0))
    replica.poll()
    assert replica.position == 66
    np.testing.assert_array_equal(answers(replica), answers(replica_of(log)))


def test_many_writers_lose_nothing(log, redis_server):
    def write(seed):
        own = MemoryLog(connect(redis_server.url, timeout_s=5), model="m", version="v1")
        for step in range(10):
            own.append(batch(seed, 8, ids=[seed * 1000 + step * 8 + i + 1 for i in range(8)]))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.position() == 320


def test_the_memory_is_frozen_while_redis_is_away(tmp_path_factory):
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        server = EmbeddedRedis(Path(directory)).start()
        log = MemoryLog(connect(server.url), model="m", version="v1")
        replica = replica_of(log)
        log.append(batch(0))
        replica.start()
        try:
            eventually(lambda: replica.position == 64)
            known = answers(replica)
            server.stop()
            eventually(lambda: not replica.fresh)
            np.testing.assert_array_equal(answers(replica), known)
            with pytest.raises(redis.RedisError):
                log.append(batch(1))
            server.start()
            eventually(lambda: replica.fresh)
            log.append(batch(1))
            eventually(lambda: replica.position == 128)
            np.testing.assert_array_equal(answers(replica), answers(replica_of(log)))
        finally:
            replica.stop()
            server.stop()


def test_a_server_that_lacks_the_newest_entries_is_read_anew():
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        server = EmbeddedRedis(Path(directory)).start()
        log = MemoryLog(connect(server.url), model="m", version="v1")
        replica = replica_of(log)
        for seed in range(2):
            log.append(batch(seed))
        replica.start()
        try:
            eventually(lambda: replica.position == 128)
            server.stop()
            eventually(lambda: not replica.fresh)
            for path in Path(directory).rglob("*aof*"):
                if path.is_file():
                    path.unlink()
            server.start()
            for seed in (7, 8, 9):  # as many and more, but others
                log.append(batch(seed))
            eventually(lambda: replica.fresh and replica.position == 192)
            np.testing.assert_array_equal(answers(replica), answers(replica_of(log)))
        finally:
            replica.stop()
            server.stop()
