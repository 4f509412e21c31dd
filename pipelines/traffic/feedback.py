"""Labelled flows that were collected online, as further recordings of the next training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from feature_store.error_memory.events import LabelledEvent
from feature_store.traffic.flows import FlowBatch
from feature_store.traffic.flows.packing import unpack_flows
from pipelines.traffic.dataset import UNLABELLED, LabelledFlows


def feedback_flows(events: Sequence[LabelledEvent], *, packets: int) -> LabelledFlows | None:
    """The flows of labelled verdicts, one recording an hour; None where there are none.

    They hold no address but its hash. Of several labels of one flow the last one counts.
    """
    last = {each.case: each for each in events if each.case and _label(each)}
    if not last:
        return None
    flows = unpack_flows(list(last), packets)
    names = [_label(each) for each in last.values()]
    classes = tuple(sorted(set(names)))
    hours = [
        f"feedback-{datetime.fromtimestamp(int(ns) / 1e9, UTC):%Y-%m-%dT%H}"
        for ns in flows.flow["first_ns"]
    ]
    captures = tuple(sorted(set(hours)))
    return LabelledFlows(
        flows=flows,
        label=np.array([classes.index(name) for name in names], np.int32),
        classes=classes,
        capture=np.array([captures.index(hour) for hour in hours], np.int32),
        captures=captures,
    )


def joined(first: LabelledFlows, second: LabelledFlows) -> LabelledFlows:
    """Both in one data set."""
    classes = tuple(sorted({*first.classes, *second.classes}))

    def renamed(data: LabelledFlows) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        rows = np.array([classes.index(name) for name in data.classes] + [UNLABELLED], np.int32)
        return np.asarray(rows[data.label], np.int32)

    return LabelledFlows(
        flows=FlowBatch.concatenate([first.flows, second.flows]),
        label=np.concatenate([renamed(first), renamed(second)]),
        classes=classes,
        capture=np.concatenate(
            [first.capture, second.capture + np.int32(len(first.captures))]
        ).astype(np.int32),
        captures=(*first.captures, *second.captures),
        rejects=first.rejects | second.rejects,
        packets=first.packets + second.packets,
    )


def _label(event: LabelledEvent) -> str:
    return next((str(label) for label in event.labels.values()), "")
