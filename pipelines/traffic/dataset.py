"""Captures as labelled flows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import NotACaptureError, open_capture
from feature_store.traffic.flows import FlowBatch, FlowSettings
from pipelines.progress import Reporter, Silent
from pipelines.traffic.labels import LabelSource

UNLABELLED = -1


@dataclass(frozen=True)
class LabelledFlows:
    """n flows of several captures.

    Attributes:
        flows: what was kept of them.
        label: (n,) int32, row of `classes`, `UNLABELLED` where none is known.
        classes: names, sorted.
        capture: (n,) int32, row of `captures`.
        captures: names of the files, relative to the data directory.
        rejects: capture → why it could not be read.
        packets: packets by outcome, over all captures.
    """

    flows: FlowBatch
    label: NDArray[np.int32]
    classes: tuple[str, ...]
    capture: NDArray[np.int32]
    captures: tuple[str, ...]
    rejects: dict[str, str] = field(default_factory=dict)
    packets: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.flows)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> LabelledFlows:
        """Some of the flows; classes and captures keep their rows."""
        return LabelledFlows(
            self.flows[rows],
            self.label[rows],
            self.classes,
            self.capture[rows],
            self.captures,
            self.rejects,
            self.packets,
        )

    def keeping_classes(self, least: int) -> LabelledFlows:
        """Flows of classes with fewer than `least` of them lose their label."""
        counts = np.bincount(self.label[self.label >= 0], minlength=len(self.classes))
        kept = np.flatnonzero(counts >= least)
        rows = np.full(len(self.classes) + 1, UNLABELLED, np.int32)
        rows[kept] = np.arange(len(kept), dtype=np.int32)
        return LabelledFlows(
            self.flows,
            rows[self.label],
            tuple(self.classes[row] for row in kept),
            self.capture,
            self.captures,
            self.rejects,
            self.packets,
        )

    def fingerprint(self) -> str:
        """SHA-256 of flows and labels."""
        digest = hashlib.sha256()
        for column in (*self.flows.columns(), self.label):
            digest.update(np.ascontiguousarray(column).tobytes())
        digest.update("\0".join(self.classes).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelledPart:
    """Flows of one part of the split.

    Shapes:
        label: (n,), never negative; capture: (n,), which file each comes from
    """

    flows: FlowBatch
    label: NDArray[np.int64]
    capture: NDArray[np.int32]

    def __getitem__(self, rows: NDArray[np.int64]) -> LabelledPart:
        """Some of the flows."""
        return LabelledPart(self.flows[rows], self.label[rows], self.capture[rows])

    def __add__(self, other: LabelledPart) -> LabelledPart:
        """The flows of both."""
        return LabelledPart(
            FlowBatch.concatenate([self.flows, other.flows]),
            np.concatenate([self.label, other.label]),
            np.concatenate([self.capture, other.capture]),
        )


def read_labelled_flows(
    captures: Sequence[Path],
    source: LabelSource,
    *,
    root: Path,
    settings: FlowSettings | None = None,
    reporter: Reporter | None = None,
) -> LabelledFlows:
    """The flows of captures, each capture by itself, with their labels.

    A file that is no capture is rejected with its reason; damage inside one is counted.

    Raises:
        ValueError: no capture could be read, or no flow is in them.
    """
    reporter = reporter or Silent()
    batches: list[FlowBatch] = []
    names: list[NDArray[np.object_]] = []
    capture_rows: list[NDArray[np.int32]] = []
    rejects: dict[str, str] = {}
    packets: Counter[str] = Counter()
    with reporter.bar("reading captures", len(captures)) as bar:
        for row, path in enumerate(captures):
            meter = FlowMeter(settings)
            try:
                with open_capture(path) as opened:
                    found = list(read_flows(opened, meter))
            except (NotACaptureError, OSError) as error:
                rejects[_name(path, root)] = str(error)
                bar.advance(note=f"rejected {path.name}")
                continue
            for outcome, count in meter.outcomes.items():
                packets[outcome.name.lower()] += count
            if found:
                flows = FlowBatch.concatenate(found)
                batches.append(flows)
                names.append(source.labels(path, flows))
                capture_rows.append(np.full(len(flows), row, np.int32))
            bar.advance(note=f"{sum(map(len, batches)):,} flows")
    if not batches:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(rejects.items())[:3])
        raise ValueError(f"no flow in {len(captures)} captures under {root} ({reasons or 'empty'})")
    label_names = np.concatenate(names)
    classes = tuple(sorted({str(name) for name in label_names if name}))
    rows = {name: row for row, name in enumerate(classes)} | {"": UNLABELLED}
    return LabelledFlows(
        flows=FlowBatch.concatenate(batches),
        label=np.array([rows[name] for name in label_names], np.int32),
        classes=classes,
        capture=np.concatenate(capture_rows),
        captures=tuple(_name(path, root) for path in captures),
        rejects=rejects,
        packets=packets,
    )


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
