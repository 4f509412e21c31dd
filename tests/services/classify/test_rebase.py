"""A new version's memory begins with labelled flows, as the new version classifies them."""

import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from feature_store.editions.traffic import TrafficEdition
from feature_store.error_memory.events import EventLog
from feature_store.traffic.flows import FlowBatch
from feature_store.traffic.flows.packing import pack_flow, unpack_flows
from services.classify.labels import Label, Learned
from services.classify.memory import TrafficMemory
from services.classify.stream import ServedEdition, StreamClassifier

from .conftest import deciding, packets_of, verdicts_of


@pytest.fixture
def tenant() -> str:
    return uuid.uuid4().hex[:8]


def finals(mixed: Path, served: ServedEdition, memory: TrafficMemory) -> list:
    classifier = StreamClassifier(served, corrector=memory)
    return [each for each in verdicts_of([packets_of(mixed)], classifier) if each.final]


def test_a_packed_flow_is_classified_as_the_flow(mixed: Path, served: ServedEdition) -> None:
    found = verdicts_of([packets_of(mixed)], StreamClassifier(served))
    final = [each for each in found if each.final]
    packed = [pack_flow(each.seen, each.packet) for each in final]
    flows = unpack_flows(packed, served.edition.packets)
    np.testing.assert_allclose(
        served.edition.classify(flows).probability, [each.own for each in final], atol=1e-4
    )
    addresses = np.array([each.seen.flow["src_lo"][0] for each in final])
    assert not np.isin(flows.flow["src_lo"], addresses).any()  # who talked is not kept
    assert len(np.unique(flows.flow["src_lo"])) == len(np.unique(addresses))
    assert isinstance(flows, FlowBatch)


def test_labels_move_to_the_next_version_and_so_does_a_new_class(
    mixed: Path, trained: TrafficEdition, redis_client: redis.Redis, tenant: str
) -> None:
    served = ServedEdition(deciding(trained, early_exit=1.0), "v1")
    old = TrafficMemory(redis_client, served, tenant=tenant)
    try:
        verdicts = finals(mixed, served, old)
        old.write(verdicts)
        names = ["telepathy" if k % 2 else trained.classes[0] for k in range(12)]
        labels = [
            Label(each.prediction_id, name, "analyst", f"f{k}")
            for k, (each, name) in enumerate(zip(verdicts, names, strict=False))
        ]
        assert old.learn(labels) == [Learned.LEARNED] * 12
        assert old.learn(labels) == [Learned.DUPLICATE] * 12
        assert len(EventLog(redis_client, model="traffic", tenant=tenant)) == 12
        other = replace(served.edition, decision=deciding(trained, temperature=2.0).decision)
        new = TrafficMemory(redis_client, ServedEdition(other, "v2"), tenant=tenant)
        try:
            assert (new.rebased.entries, new.rebased.predecessor) == (12, "v1")
            assert "telepathy" in new.classes
            (batch,) = (each for _, each in new.log.entries())
            own = np.stack([each.own for each in verdicts[:12]])
            assert (batch.predictions[:, :3].max(1) < own.max(1) + 1e-3).all()  # softer: T is 2
            assert not np.allclose(batch.predictions[:, :3], own, atol=1e-3)
            # A label for what the version before had said is learned by the new one.
            late = Label(verdicts[20].prediction_id, trained.classes[1], "analyst", "late")
            assert new.learn([late, late]) == [Learned.LEARNED, Learned.DUPLICATE]
            assert new.log.position() == 13
        finally:
            new.close()
    finally:
        old.close()


def test_a_label_reaches_the_memories_of_both_versions_wherever_it_is_told(
    mixed: Path, trained: TrafficEdition, redis_client: redis.Redis, tenant: str
) -> None:
    served = ServedEdition(deciding(trained, early_exit=1.0), "v1")
    old = TrafficMemory(redis_client, served, tenant=tenant)
    new = TrafficMemory(redis_client, ServedEdition(served.edition, "v2"), tenant=tenant)
    try:
        first, second, *_ = finals(mixed, served, old)
        old.write([first])
        after = replace(second, model_version="v2")
        new.write([after])
        told = [Label(each.prediction_id, "telepathy", "analyst") for each in (first, after)]
        assert old.learn(told) == [Learned.LEARNED] * 2  # the replica has not switched yet
        assert (old.log.position(), new.log.position()) == (2, 0)
        for _ in range(2):
            new.learn_from_others()
        assert new.log.position() == 2
        assert new.learn(told) == [Learned.DUPLICATE] * 2
    finally:
        old.close()
        new.close()
