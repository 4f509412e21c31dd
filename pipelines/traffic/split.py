"""The honest split: by capture and by time, never by packet or by flow at random.

Under a random split a model can recognise the recording: neighbours in time share hosts, keys
and clocks (The Sweet Danger of Sugar, SIGCOMM 2025). Here a test flow comes from another
recording of its class than every training flow, or, where a class has only one, from its later
part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.features import Tier, flow_features
from feature_store.traffic.flows import FlowBatch
from pipelines.traffic.dataset import LabelledFlows

SECOND_NS = 1_000_000_000
# Beyond it too little would be left to train on.
LARGEST_HELD_SHARE = 0.5
THIRDS = (1 / 3, 1 / 3, 1 / 3)


class Labelled(Protocol):
    """Flows with their labels and captures, row by row."""

    @property
    def flows(self) -> FlowBatch:
        """The n flows."""

    @property
    def label(self) -> NDArray[np.int32] | NDArray[np.int64]:
        """(n,)"""

    @property
    def capture(self) -> NDArray[np.int32]:
        """(n,)"""


@dataclass(frozen=True)
class Split:
    """Rows of a data set, and what was done to keep them apart.

    Attributes:
        train, validation, test: (·,) int64, labelled rows, in order of time within a class.
        groups: recordings per class.
        duplicates: test and validation flows left out because training has the same packets.
        straddling: left out because their conversation began in an earlier part.
        redundancy: share of the test flows whose sizes, directions and header fields (gaps apart)
            are also those of a training flow.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    groups: dict[str, int]
    duplicates: int
    straddling: int
    redundancy: float


def recordings(data: Labelled, *, gap_s: float = 120.0) -> NDArray[np.int64]:
    """(n,) the recording of each flow: its capture, cut where its class is silent for `gap_s`."""
    order = np.lexsort((data.flows.flow["first_ns"], data.capture, data.label))
    first = data.flows.flow["first_ns"][order]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = (
        (np.diff(data.label[order]) != 0)
        | (np.diff(data.capture[order]) != 0)
        | (np.diff(first) > gap_s * SECOND_NS)
    )
    rows = np.zeros(len(order), np.int64)
    rows[order] = np.cumsum(starts) - 1
    return rows


def honest_split(
    data: LabelledFlows,
    *,
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25),
    gap_s: float = 120.0,
) -> Split:
    """Earlier recordings of each class train, later ones validate, the last ones test.

    A class with too few recordings to fill three parts is cut by time inside its longest ones;
    conversations that straddle such a cut stay in the earlier part alone.

    Raises:
        ValueError: no flow has a label.
    """
    if not (data.label >= 0).any():
        raise ValueError("no flow has a label: see `errata train traffic --help` for how to label")
    first = data.flows.flow["first_ns"]
    recording = recordings(data, gap_s=gap_s)
    part = np.full(len(data), -1, np.int8)
    groups = {}
    for label, name in enumerate(data.classes):
        rows = np.flatnonzero(data.label == label)
        groups[name] = len(np.unique(recording[rows]))
        part[rows] = _parts(recording[rows], first[rows], shares)
    straddling = _straddling(data, part)
    part[straddling] = -1
    duplicate = _duplicates(data.flows, part)
    part[duplicate] = -1
    train, validation, test = (np.flatnonzero(part == each) for each in range(3))
    return Split(
        train=train,
        validation=validation,
        test=test,
        groups=groups,
        duplicates=int(duplicate.sum()),
        straddling=int(straddling.sum()),
        redundancy=_redundancy(data.flows, train, test),
    )


def blocks(
    data: Labelled, *, gap_s: float = 120.0
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
    """Cross-validation as the split is made: rows to train on and rows held out, three times.

    Each block holds about a third of the flows of every class, in recordings that follow each
    other. Conversations and packets that the other blocks have too are left out of what is held.
    """
    first = data.flows.flow["first_ns"]
    recording = recordings(data, gap_s=gap_s)
    block = np.full(len(data.label), -1, np.int8)
    for label in np.unique(data.label[data.label >= 0]):
        rows = np.flatnonzero(data.label == label)
        block[rows] = _parts(recording[rows], first[rows], THIRDS)
    found = []
    for each in range(len(THIRDS)):
        side = np.where(block < 0, -1, block == each).astype(np.int8)
        side[_straddling(data, side)] = -1
        side[_duplicates(data.flows, side)] = -1
        found.append((np.flatnonzero(side == 0), np.flatnonzero(side == 1)))
    return tuple(found)


def _parts(
    recording: NDArray[np.int64], first: NDArray[np.int64], shares: tuple[float, float, float]
) -> NDArray[np.int8]:
    """0 train, 1 validation, 2 test for the flows of one class."""
    part = np.zeros(len(recording), np.int8)
    part[_latest(recording, first, shares[2])] = 2
    rest = np.flatnonzero(part == 0)
    part[rest[_latest(recording[rest], first[rest], shares[1] / (shares[0] + shares[1]))]] = 1
    return part


def _latest(
    recording: NDArray[np.int64], first: NDArray[np.int64], share: float
) -> NDArray[np.bool_]:
    """The last recordings, about `share` of the flows; flows by time where recordings are too
    few or too unequal to come near it."""
    n = len(recording)
    found, rows, sizes = np.unique(recording, return_inverse=True, return_counts=True)
    begins = np.full(len(found), np.iinfo(np.int64).max)
    np.minimum.at(begins, rows, first)
    latest_first = np.argsort(-begins, kind="stable")
    held = np.cumsum(sizes[latest_first])[:-1]  # at least the earliest recording stays
    count = int(np.argmin(np.abs(held - share * n))) + 1 if len(held) else 0
    if count and held[count - 1] <= LARGEST_HELD_SHARE * n:
        return np.isin(rows, latest_first[:count])
    by_time = np.empty(n, np.int64)
    by_time[np.argsort(first, kind="stable")] = np.arange(n)
    return by_time >= round((1 - share) * n)


def _straddling(data: Labelled, part: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Flows whose 5-tuple occurs, in the same capture, in an earlier part."""
    flow = data.flows.flow
    source = np.stack([flow["src_hi"], flow["src_lo"], flow["src_port"].astype(np.uint64)], 1)
    target = np.stack([flow["dst_hi"], flow["dst_lo"], flow["dst_port"].astype(np.uint64)], 1)
    forward = np.array([tuple(a) <= tuple(b) for a, b in zip(source, target, strict=True)])
    key = np.concatenate(
        [
            np.where(forward[:, None], source, target),
            np.where(forward[:, None], target, source),
            flow["protocol"][:, None].astype(np.uint64),
            data.capture[:, None].astype(np.uint64),
        ],
        axis=1,
    )
    _, conversation = np.unique(key, axis=0, return_inverse=True)
    conversation = conversation.ravel()
    earliest = np.full(conversation.max(initial=0) + 1, 127, np.int8)
    np.minimum.at(earliest, conversation[part >= 0], part[part >= 0])
    return (part > 0) & (earliest[conversation] < part)


def _duplicates(flows: FlowBatch, part: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Flows whose packets, gaps and bytes included, occur in an earlier part."""
    digests = [
        hashlib.blake2b(
            b"".join(
                (size.tobytes(), direction.tobytes(), gap.tobytes(), raw.tobytes()),
            ),
            digest_size=16,
        ).digest()
        for size, direction, gap, raw in zip(
            flows.size, flows.direction, flows.gap_ns, flows.raw, strict=True
        )
    ]
    return _seen_earlier(digests, part)


def _redundancy(flows: FlowBatch, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    features = flow_features(flows, Tier.T1)
    shapes = np.concatenate(
        [features.size * features.direction, features.fields.reshape(len(flows), -1)], axis=1
    )
    known = {row.tobytes() for row in shapes[train]}
    return float(np.mean([row.tobytes() in known for row in shapes[test]])) if len(test) else 0.0


def _seen_earlier(digests: list[bytes], part: NDArray[np.int8]) -> NDArray[np.bool_]:
    earliest: dict[bytes, int] = {}
    for digest, place in zip(digests, part, strict=True):
        if place >= 0:
            earliest[digest] = min(int(place), earliest.get(digest, 127))
    return np.array(
        [
            place > 0 and earliest[digest] < place
            for digest, place in zip(digests, part, strict=True)
        ]
    )
