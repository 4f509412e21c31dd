"""Labels against verdicts, through a real Redis: what was said is corrected, and nothing else."""

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
import redis

from feature_store.editions.corrections import NEW_CLASSES
from feature_store.editions.traffic import TrafficEdition
from services.classify.labels import Label, Learned
from services.classify.memory import LOOK_EVERY_S, TrafficMemory
from services.classify.stream import ServedEdition
from services.classify.verdict import FlowName, Reason, Verdict
from tests.patience import within

eventually = within(10)


@pytest.fixture
def memory(redis_client: redis.Redis, trained: TrafficEdition) -> Iterator[TrafficMemory]:
    served = ServedEdition(trained, f"v-{uuid.uuid4().hex[:8]}")
    found = TrafficMemory(redis_client, served, tenant=uuid.uuid4().hex[:8])
    yield found
    found.close()


class Flows:
    """Verdicts near a place of the hidden space."""

    def __init__(self, edition: TrafficEdition, version: str, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._rng, self._edition, self._version = rng, edition, version
        self._place = rng.standard_normal(edition.network.head.in_features)

    def hidden(self, count: int) -> np.ndarray:
        near = self._place + 0.02 * self._rng.standard_normal((count, len(self._place)))
        return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)

    def own(self, count: int, *, sure_of: int = 0) -> np.ndarray:
        own = np.full((count, len(self._edition.classes)), 0.05, np.float32)
        own[:, sure_of] = 1
        return own / own.sum(axis=1, keepdims=True)

    def verdicts(self, count: int, *, sure_of: int = 0) -> list[Verdict]:
        return [
            Verdict(
                prediction_id=uuid.uuid4().hex,
                model_version=self._version,
                flow=FlowName("192.0.2.1", 1, "192.0.2.2", 2, "tcp"),
                packet=5,
                time_ns=10**18,
                label=self._edition.classes[sure_of],
                guess=self._edition.classes[sure_of],
                confidence=0.9,
                reason=Reason.FLOW_END,
                probability=own,
                own=own,
                hidden=hidden,
            )
            for own, hidden in zip(
                self.own(count, sure_of=sure_of), self.hidden(count), strict=True
            )
        ]


def flows(memory: TrafficMemory, edition: TrafficEdition, *, seed: int) -> Flows:
    return Flows(edition, memory.log.version, seed=seed)


def taught(memory: TrafficMemory, verdicts: list[Verdict], label: str, source: str = "") -> None:
    """Labels, one after the other, until this replica has read them."""
    for verdict in verdicts:
        memory.write([verdict])
        (outcome,) = memory.learn([Label(verdict.prediction_id, label, source)])
        assert outcome is Learned.LEARNED
        eventually(lambda: memory.replica.position >= memory.log.position())


def test_an_empty_memory_changes_nothing(memory: TrafficMemory, trained: TrafficEdition) -> None:
    near = flows(memory, trained, seed=1)
    own = near.own(4)
    corrected = memory.correct(own, near.hidden(4))
    np.testing.assert_allclose(corrected[:, :3], own, atol=1e-6)
    assert corrected.shape == (4, 3 + NEW_CLASSES)


def test_labels_correct_flows_like_them_and_leave_others_alone(
    memory: TrafficMemory, trained: TrafficEdition
) -> None:
    near, far = flows(memory, trained, seed=1), flows(memory, trained, seed=2)
    before = memory.correct(far.own(4), far.hidden(4))
    taught(memory, near.verdicts(20), trained.classes[1])
    corrected = memory.correct(near.own(4), near.hidden(4))
    assert (corrected.argmax(axis=1) == 1).all()
    after = memory.correct(far.own(4), far.hidden(4))
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)


def test_a_class_that_the_model_never_knew_is_named(
    memory: TrafficMemory, trained: TrafficEdition
) -> None:
    near = flows(memory, trained, seed=3)
    taught(memory, near.verdicts(20), "telepathy")
    corrected = memory.correct(near.own(4), near.hidden(4))
    assert {memory.classes[k] for k in corrected.argmax(axis=1)} == {"telepathy"}


def test_another_replica_reads_the_same_names_and_corrections(
    memory: TrafficMemory, trained: TrafficEdition, redis_client: redis.Redis
) -> None:
    near = flows(memory, trained, seed=4)
    taught(memory, near.verdicts(12), "telepathy")
    tenant = memory.log.key.split(":")[1]
    late = TrafficMemory(redis_client, ServedEdition(trained, memory.log.version), tenant=tenant)
    try:
        own, hidden = near.own(4), near.hidden(4)
        np.testing.assert_array_equal(late.correct(own, hidden), memory.correct(own, hidden))
        assert late.classes == memory.classes
    finally:
        late.close()


def test_the_same_label_counts_once(memory: TrafficMemory, trained: TrafficEdition) -> None:
    (verdict,) = flows(memory, trained, seed=5).verdicts(1)
    memory.write([verdict])
    label = Label(verdict.prediction_id, trained.classes[0], "analyst")
    assert memory.learn([label]) == [Learned.LEARNED]
    assert memory.learn([label, label]) == [Learned.DUPLICATE, Learned.DUPLICATE]
    assert memory.log.position() == 1


def test_a_label_for_a_verdict_that_does_not_wait_is_told_apart(memory: TrafficMemory) -> None:
    assert memory.learn([Label("never", "chat")]) == [Learned.EXPIRED]


def test_there_is_room_for_so_many_new_classes(
    memory: TrafficMemory, trained: TrafficEdition
) -> None:
    made_up = [Label("never", f"made up {k}") for k in range(NEW_CLASSES)]
    assert set(memory.learn(made_up)) == {Learned.EXPIRED}  # and none of them takes a place
    verdicts = flows(memory, trained, seed=6).verdicts(NEW_CLASSES + 1)
    memory.write(verdicts)
    labels = [Label(each.prediction_id, f"new {k}") for k, each in enumerate(verdicts)]
    assert memory.learn(labels) == [Learned.LEARNED] * NEW_CLASSES + [Learned.NO_ROOM]


def test_what_a_source_said_can_be_forgotten(
    memory: TrafficMemory, trained: TrafficEdition
) -> None:
    near = flows(memory, trained, seed=7)
    taught(memory, near.verdicts(15), trained.classes[2], source="liar")
    own, hidden = near.own(3), near.hidden(3)
    assert (memory.correct(own, hidden).argmax(axis=1) == 2).all()
    memory.log.forget_source("liar")
    eventually(lambda: (memory.correct(own, hidden).argmax(axis=1) == 0).all())


def test_the_memory_learns_from_labels_of_every_class_what_it_is_worth(
    memory: TrafficMemory, trained: TrafficEdition
) -> None:
    near = flows(memory, trained, seed=8)
    taught(memory, near.verdicts(15, sure_of=1), trained.classes[2])
    stats = memory.replica.memory.stats()
    assert stats.excess_loss < 0
    assert stats.weights["base"] < memory.replica.policy.base_prior


def test_verdicts_give_way_while_redis_runs_full_and_labels_are_still_learned(
    redis_client: redis.Redis, trained: TrafficEdition
) -> None:
    now = [100.0]
    served = ServedEdition(trained, f"v-{uuid.uuid4().hex[:8]}")
    memory = TrafficMemory(
        redis_client, served, tenant=uuid.uuid4().hex[:8], monotonic=lambda: now[0]
    )
    limit = redis_client.config_get("maxmemory")["maxmemory"]
    before, meanwhile, after = flows(memory, trained, seed=7).verdicts(3)

    def label(verdict: Verdict) -> list[Learned]:
        return memory.learn([Label(verdict.prediction_id, trained.classes[1])])

    try:
        memory.write([before])
        redis_client.setrange("ballast", 20_000_000, "x")
        redis_client.config_set("maxmemory", int(redis_client.info("memory")["used_memory"] / 0.9))
        now[0] += LOOK_EVERY_S
        memory.write([meanwhile])
        assert memory.dropped == 1
        assert label(before) == [Learned.LEARNED]
        assert label(meanwhile) == [Learned.EXPIRED]

        redis_client.delete("ballast")
        now[0] += LOOK_EVERY_S
        memory.write([after])
        assert memory.dropped == 1
        assert label(after) == [Learned.LEARNED]
    finally:
        redis_client.config_set("maxmemory", limit)
        memory.close()
