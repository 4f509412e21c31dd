"""The same verdicts however packets come, and an account of all that were not given."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.traffic import UNKNOWN, TrafficEdition
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.flows import EndReason, FlowBatch, FlowSettings
from services.classify.correction import Uncorrected
from services.classify.policy import LatencyBudget, Pressure, Shed
from services.classify.reader import FlowReader, fitted
from services.classify.stream import ServedEdition, StreamClassifier
from services.classify.verdict import Reason
from tests.services.classify.conftest import (
    VERSION,
    confidences,
    deciding,
    packets_of,
    said,
    verdicts_of,
)

SECOND_NS = 1_000_000_000


def flows_of(path: Path) -> FlowBatch:
    return FlowBatch.concatenate(list(read_flows([packets_of(path)], FlowMeter())))


def test_every_packet_has_a_verdict_and_every_flow_a_final_one(
    served: ServedEdition, mixed: Path
) -> None:
    classifier = StreamClassifier(served)
    verdicts = verdicts_of([packets_of(mixed)], classifier)
    flows = flows_of(mixed)
    limit = served.edition.packets
    kept = np.minimum(flows.flow["kept"], limit)
    assert len(verdicts) == kept.sum() + (kept < limit).sum()
    assert Counter(v.reason for v in verdicts) == {
        Reason.PROVISIONAL: (np.minimum(kept, limit - 1)).sum(),
        Reason.PACKET_LIMIT: (kept == limit).sum(),
        Reason.FLOW_END: (kept < limit).sum(),
    }
    final = [v for v in verdicts if v.final]
    assert len({v.prediction_id for v in final}) == len(final) == len(flows)
    assert {v.prediction_id for v in verdicts} == {v.prediction_id for v in final}
    assert classifier.counts.final == classifier.counts.flows == len(flows)
    assert not +classifier.counts.shed


def test_verdicts_are_those_of_the_whole_flows(served: ServedEdition, mixed: Path) -> None:
    verdicts = verdicts_of([packets_of(mixed)], StreamClassifier(served))
    flows = flows_of(mixed)
    reader = FlowReader(served.edition, Uncorrected(served.edition.classes), states=1024)
    for packet in range(1, served.edition.packets + 1):
        longer = flows[flows.flow["kept"] >= packet]
        whole = reader.whole(longer, np.full(len(longer), packet))
        streamed = {v.flow.source_port: v for v in verdicts if v.packet == packet}
        for row, flow in enumerate(longer.flow):
            found = streamed[int(flow["src_port"])]
            np.testing.assert_allclose(found.probability, whole.probability[row], atol=1e-5)
            np.testing.assert_allclose(found.hidden, whole.hidden[row], atol=1e-5)
            assert found.guess == served.edition.classes[whole.probability[row].argmax()]


@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=12), micro_batch=st.integers(1, 40))
def test_cutting_the_packets_anywhere_changes_nothing(
    served: ServedEdition, trained: TrafficEdition, mixed: Path, cuts: list[int], micro_batch: int
) -> None:
    eager = ServedEdition(deciding(trained, early_exit=0.9, network_weight=0.5), VERSION)
    packets = packets_of(mixed)
    borders = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    pieces = [packets[a:b] for a, b in itertools.pairwise(borders) if b > a]
    budget = LatencyBudget(micro_batch=micro_batch)
    for edition in (served, eager):
        whole = verdicts_of([packets], StreamClassifier(edition))
        cut = verdicts_of(pieces, StreamClassifier(edition, budget=budget))
        assert said(cut) == said(whole)
        expected = confidences(whole)
        assert confidences(cut) == pytest.approx(expected, abs=1e-5)


def test_an_early_exit_ends_the_work_on_a_flow(
    served: ServedEdition, trained: TrafficEdition, mixed: Path
) -> None:
    every = verdicts_of([packets_of(mixed)], StreamClassifier(served))
    enough = float(np.median([v.confidence for v in every if not v.final]))
    eager = ServedEdition(deciding(served.edition, early_exit=enough), VERSION)
    verdicts = verdicts_of([packets_of(mixed)], StreamClassifier(eager))
    early = [v for v in verdicts if v.reason is Reason.EARLY_EXIT]
    assert early
    for verdict in early:
        assert verdict.confidence >= enough
        of_flow = [v for v in verdicts if v.prediction_id == verdict.prediction_id]
        assert max(v.packet for v in of_flow) == verdict.packet < trained.packets
        assert [v for v in of_flow if v.final] == [verdict]
        assert all(v.confidence < enough for v in of_flow if not v.final)


def test_below_the_threshold_a_verdict_is_unknown(trained: TrafficEdition, mixed: Path) -> None:
    served = ServedEdition(deciding(trained, unknown_below=1.0, early_exit=1.0), VERSION)
    classifier = StreamClassifier(served)
    verdicts = verdicts_of([packets_of(mixed)], classifier)
    assert all(v.label == UNKNOWN for v in verdicts if v.confidence < 1)
    assert all(v.guess in trained.classes for v in verdicts)
    assert classifier.counts.labels[UNKNOWN] > 0


def test_a_dropped_state_is_read_again_from_the_kept_packets(
    served: ServedEdition, mixed: Path
) -> None:
    """Half the flows' first packets, then others, then the rest: with few states, and with many."""
    flows = flows_of(mixed)
    flows = flows[flows.flow["kept"] >= 4]
    reader = FlowReader(served.edition, Uncorrected(served.edition.classes), states=len(flows) // 2)
    roomy = FlowReader(served.edition, Uncorrected(served.edition.classes), states=len(flows))
    half = len(flows) // 2
    one, two = np.full(half, 1), np.full(half, 2)
    for part in (flows[:half], flows[half : 2 * half]):
        for each in (reader, roomy):
            each.each(part, one, two)
    assert reader.states.dropped == half
    assert roomy.states.dropped == 0
    first = flows[:half]
    again = reader.each(first, one + 2, two + 2)
    kept = roomy.each(first, one + 2, two + 2)
    np.testing.assert_array_equal(again.packet, kept.packet)
    np.testing.assert_allclose(again.probability, kept.probability, atol=1e-5)
    np.testing.assert_allclose(again.hidden, kept.hidden, atol=1e-5)
    assert len(reader.states) == half


def test_more_flows_at_once_than_states_is_refused(served: ServedEdition, mixed: Path) -> None:
    flows = flows_of(mixed)
    reader = FlowReader(served.edition, Uncorrected(served.edition.classes), states=2)
    with pytest.raises(ValueError, match=r"only 2 states"):
        reader.each(flows, np.ones(len(flows), np.int64), np.ones(len(flows), np.int64))


class Lags:
    """A clock that says how far behind the stream is, one answer after the other."""

    def __init__(self, lags_ms: list[float]) -> None:
        self._lags = itertools.cycle(lags_ms or [0.0])

    def now_ns(self) -> int:
        return 0

    def age_ns(self, time_ns: int) -> int:  # noqa: ARG002
        return round(next(self._lags) * 1e6)


def test_each_level_of_pressure_gives_up_what_the_one_before_does() -> None:
    budget = LatencyBudget(latency_ms=10)
    levels = [budget.pressure(ms * 1_000_000) for ms in (-5, 10, 11, 20, 21, 40, 41)]
    assert levels == sorted(levels)
    assert set(levels) == set(Pressure)


@settings(max_examples=15, deadline=None)
@given(
    lags_ms=st.lists(st.sampled_from([0.0, 15.0, 30.0, 90.0]), max_size=9),
    step=st.integers(1, 60),
    early_exit=st.sampled_from([0.6, 1.0]),
)
def test_what_is_shed_is_counted(
    trained: TrafficEdition, mixed: Path, lags_ms: list[float], step: int, early_exit: float
) -> None:
    served = ServedEdition(deciding(trained, early_exit=early_exit), VERSION)
    classifier = StreamClassifier(
        served, clock=Lags(lags_ms), budget=LatencyBudget(latency_ms=10, micro_batch=16)
    )
    packets = packets_of(mixed)
    pieces = [packets[a : a + step] for a in range(0, len(packets), step)]
    verdicts = verdicts_of(pieces, classifier)
    counts, flows = classifier.counts, flows_of(mixed)

    final = [v for v in verdicts if v.final]
    assert len({v.prediction_id for v in final}) == len(final) == counts.final
    assert len(final) + counts.shed[Shed.NO_VERDICT] == counts.flows == len(flows)
    assert Counter(v.reason for v in verdicts) == counts.verdicts

    if early_exit == 1.0:  # then every kept packet is owed a verdict, and M's is the final one
        owed = np.minimum(flows.flow["kept"], trained.packets - 1).sum()
        given = counts.verdicts[Reason.PROVISIONAL]
        assert given + counts.shed[Shed.PROVISIONAL] == owed
    if not any(lags_ms):
        assert not +counts.shed


def test_under_pressure_new_flows_get_their_final_verdict_alone(
    served: ServedEdition, mixed: Path
) -> None:
    classifier = StreamClassifier(served, clock=Lags([30.0]), budget=LatencyBudget(latency_ms=10))
    verdicts = verdicts_of([packets_of(mixed)], classifier)
    assert {v.final for v in verdicts} == {True}
    assert classifier.counts.shed[Shed.FINAL_ONLY] == classifier.counts.flows == len(verdicts)
    relaxed = [v for v in verdicts_of([packets_of(mixed)], StreamClassifier(served)) if v.final]
    assert said(verdicts) == said(relaxed)
    assert confidences(verdicts) == pytest.approx(confidences(relaxed), abs=1e-5)


def test_memory_is_bounded_by_the_flow_table(served: ServedEdition, mixed: Path) -> None:
    classifier = StreamClassifier(served, settings=FlowSettings(max_flows=5, kept_packets=8))
    packets = packets_of(mixed)
    for at in range(0, len(packets), 7):
        for _ in classifier.add(packets[at : at + 7]):
            pass
        assert len(classifier._flows) <= 5
        assert len(classifier._reader.states) <= 5
    for _ in classifier.finish():
        pass
    assert not classifier._flows
    assert not len(classifier._reader.states)
    assert classifier.counts.final == classifier.counts.flows
    assert classifier.counts.evicted == classifier.meter.table.ended[EndReason.EVICTED] > 0


def test_silence_ends_flows(served: ServedEdition, mixed: Path) -> None:
    classifier = StreamClassifier(served)
    packets = packets_of(mixed)
    running = [v for vs in classifier.add(packets) for v in vs]
    later = int(packets.timestamp_ns.max()) + 121 * SECOND_NS
    ended = [v for vs in classifier.advance(later) for v in vs]
    assert ended
    assert all(v.reason is Reason.FLOW_END for v in ended)
    assert not [v for vs in classifier.finish() for v in vs]
    assert said(running + ended) == said(verdicts_of([packets], StreamClassifier(served)))


def test_another_version_goes_on_with_the_running_flows(
    served: ServedEdition, trained: TrafficEdition, mixed: Path
) -> None:
    packets = packets_of(mixed)
    middle = len(packets) // 2
    classifier = StreamClassifier(served)
    before = [v for vs in classifier.add(packets[:middle]) for v in vs]
    other = deciding(trained, early_exit=1.0, network_weight=0.2, temperature=2.0)
    classifier.use(ServedEdition(other, "other"))
    after = [v for vs in classifier.add(packets[middle:]) for v in vs]
    after += [v for vs in classifier.finish() for v in vs]
    assert {v.model_version for v in before} == {VERSION}
    assert {v.model_version for v in after} == {"other"}
    assert classifier.counts.final == classifier.counts.flows
    alone = verdicts_of([packets], StreamClassifier(ServedEdition(other, "other")))
    expected = confidences(alone)
    assert confidences(after) == pytest.approx(
        {key: expected[key] for key in confidences(after)}, abs=1e-5
    )
    assert classifier.states_dropped > 0


def test_a_corrector_stands_between_the_edition_and_every_verdict(
    served: ServedEdition, mixed: Path
) -> None:
    class Last:
        """Remembers what it was asked, and is sure of the last class."""

        classes = served.edition.classes
        reads_hidden = True

        def __init__(self) -> None:
            self.hidden: list[np.ndarray] = []

        def correct(self, probability: np.ndarray, hidden: np.ndarray) -> np.ndarray:
            self.hidden += list(hidden)
            return np.eye(probability.shape[1], dtype=np.float32)[[-1] * len(probability)]

    corrector = Last()
    verdicts = verdicts_of([packets_of(mixed)], StreamClassifier(served, corrector=corrector))
    assert {v.guess for v in verdicts} == {served.edition.classes[-1]}
    assert len(corrector.hidden) == sum(v.reason is not Reason.FLOW_END for v in verdicts)
    assert np.linalg.norm(corrector.hidden, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_a_network_without_a_say_is_read_for_final_verdicts_alone(
    trained: TrafficEdition, mixed: Path
) -> None:
    idle = deciding(trained, early_exit=1.0, unknown_below=0.0, network_weight=0.0)
    classifier = StreamClassifier(ServedEdition(idle, VERSION))
    verdicts = [v for vs in classifier.add(packets_of(mixed)) for v in vs]
    assert classifier.states_in_use == 0
    verdicts += [v for vs in classifier.finish() for v in vs]
    assert {v.hidden.size for v in verdicts if not v.final} == {0}
    flows = fitted(flows_of(mixed), idle.packets)
    for packet in range(1, idle.packets + 1):
        longer = flows[flows.flow["kept"] >= packet].cut(packet)
        whole = idle.classify(longer)
        streamed = {v.flow.source_port: v for v in verdicts if v.packet == packet}
        final = {v.flow.source_port: v for v in verdicts if v.packet == packet and v.final}
        for row, flow in enumerate(longer.flow):
            port = int(flow["src_port"])
            expected = pytest.approx(whole.probability[row], abs=1e-5)
            assert streamed[port].probability == expected
            if port in final:
                assert final[port].hidden == pytest.approx(whole.hidden[row], abs=1e-5)


@pytest.mark.parametrize("kept", [3, 20])
def test_a_table_may_keep_other_packets_than_the_edition_reads(
    served: ServedEdition, mixed: Path, kept: int
) -> None:
    settings = FlowSettings(kept_packets=kept)
    verdicts = verdicts_of([packets_of(mixed)], StreamClassifier(served, settings=settings))
    alone = confidences(verdicts_of([packets_of(mixed)], StreamClassifier(served)))
    shared = {key: v for key, v in confidences(verdicts).items() if key in alone}
    assert shared == pytest.approx({key: alone[key] for key in shared}, abs=1e-5)
    if kept == 20:
        assert shared.keys() == alone.keys()
    assert max(v.packet for v in verdicts) == min(kept, served.edition.packets)
