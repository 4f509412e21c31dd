import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.flows import FLOW, FlowBatch
from pipelines.traffic.dataset import LabelledFlows
from pipelines.traffic.split import honest_split, recordings

SECOND = 1_000_000_000


def labelled_flows(
    times_s: list[float],
    labels: list[int],
    captures: list[int] | None = None,
    ports: list[int] | None = None,
) -> LabelledFlows:
    """Flows that differ in their size, so that none is a duplicate of another."""
    n = len(times_s)
    batch = FlowBatch.empty(2)
    flow = np.zeros(n, FLOW)
    flow["first_ns"] = np.array(times_s) * SECOND
    flow["src_port"] = np.arange(n) if ports is None else ports
    flow["kept"] = 1
    size = np.zeros((n, 2), np.int32)
    size[:, 0] = 100 + np.arange(n)
    direction = np.zeros((n, 2), np.int8)
    direction[:, 0] = 1
    flows = FlowBatch(
        flow=flow,
        size=size,
        direction=direction,
        gap_ns=np.zeros((n, 2), np.int64),
        fields=np.zeros((n, *batch.fields.shape[1:]), np.uint16),
        raw=np.zeros((n, *batch.raw.shape[1:]), np.uint8),
        header_length=np.zeros((n, *batch.header_length.shape[1:]), np.uint8),
    )
    return LabelledFlows(
        flows,
        np.array(labels, np.int32),
        tuple(f"class {k}" for k in range(max(labels) + 1)),
        np.array(captures or [0] * n, np.int32),
        tuple(f"{k}.pcap" for k in range(max(captures or [0]) + 1)),
    )


def test_silence_of_a_class_begins_another_recording() -> None:
    data = labelled_flows([0, 10, 200, 210, 5], [0, 0, 0, 0, 1])
    found = recordings(data, gap_s=120)
    assert found[0] == found[1] != found[2] == found[3]
    assert found[4] not in found[:4]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.floats(0, 5_000)),
        min_size=12,
        max_size=120,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_recording_with_earlier_ones_is_on_both_sides(
    rows: list[tuple[int, int, float]],
) -> None:
    labels, captures, times = (list(column) for column in zip(*rows, strict=True))
    data = labelled_flows(times, labels, captures)
    split = honest_split(data)
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    first = data.flows.flow["first_ns"]
    recording = recordings(data)
    for label in range(4):
        train = [row for row in split.train if data.label[row] == label]
        test = [row for row in split.test if data.label[row] == label]
        cut = set(recording[train]) & set(recording[test])
        if cut:  # too few recordings: then by time
            assert first[train].max() <= first[test].min()


def test_enough_recordings_are_never_cut() -> None:
    times = [1_000.0 * r + k for r in range(8) for k in range(10)]
    split = honest_split(labelled_flows(times, [0] * 80))
    recording = np.repeat(np.arange(8), 10)
    assert set(recording[split.train]).isdisjoint(recording[split.test])
    assert recording[split.train].max() < recording[split.validation].min()
    assert recording[split.validation].max() < recording[split.test].min()
    assert len(split.test) == 20


def test_a_conversation_that_straddles_the_cut_stays_in_training() -> None:
    ports = [*range(15), 0, 1, 2, 18, 19]
    split = honest_split(labelled_flows([float(k) for k in range(20)], [0] * 20, ports=ports))
    assert split.straddling == 3
    assert set(split.test) == {18, 19}


def test_the_same_packets_are_not_trained_and_tested_on() -> None:
    data = labelled_flows([float(k) for k in range(20)], [0] * 20)
    data.flows.size[19] = data.flows.size[0]
    split = honest_split(data)
    assert split.duplicates == 1
    assert 19 not in split.test


def test_without_a_label_there_is_nothing_to_split() -> None:
    data = labelled_flows([0.0, 1.0], [0, 0])
    data.label[:] = -1
    with pytest.raises(ValueError, match="no flow has a label"):
        honest_split(data)
