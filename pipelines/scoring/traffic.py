"""Verdicts on the flows of captures: a row per flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.editions.corrections import class_names, corrected_classes, new_classes
from feature_store.editions.traffic import MODEL_NAME, TrafficEdition
from feature_store.error_memory.replica import MemoryReplica
from feature_store.registry import Registry
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import NotACaptureError, open_capture
from feature_store.traffic.flows import EndReason, FlowBatch, FlowSettings
from feature_store.traffic.packets.packet import address_text
from feature_store.traffic.report import PROTOCOL_NAMES
from pipelines.progress import Reporter
from pipelines.scoring.inputs import InputFile
from pipelines.scoring.memory import MemorySource, corrected
from pipelines.scoring.output import JobManifest, Output, UnitReport

CAPTURE_SUFFIXES = tuple(
    suffix + packed for suffix in (".pcap", ".pcapng", ".cap") for packed in ("", ".gz")
)
FLOWS_A_BLOCK = 4_096
REMEMBERED_ADDRESSES = 1 << 16


@dataclass(frozen=True)
class FlowBlock:
    """Flows of one capture."""

    flows: FlowBatch
    capture: str

    def __len__(self) -> int:
        return len(self.flows)


@dataclass(frozen=True, kw_only=True)
class TrafficJob:
    """The flows of captures under one edition; a unit is a capture.

    Attributes:
        registry: root of the registry; `cache` holds copies of a remote one's versions.
        reference, version: what was asked for, and what it stands for.
        memory: corrects the verdicts; None leaves them the version's own.
    """

    registry: str
    cache: Path | None
    reference: str
    version: str
    captures: tuple[InputFile, ...]
    code_version: str
    block_rows: int = FLOWS_A_BLOCK
    memory: MemorySource | None = None

    @property
    def manifest(self) -> JobManifest:
        """See `Job`."""
        return JobManifest(
            kind="flows",
            model=MODEL_NAME,
            reference=self.reference,
            version=self.version,
            settings={"block_rows": self.block_rows} | corrected(self.memory),
            inputs=self.captures,
            units=len(self.captures),
            code_version=self.code_version,
        )

    def prepare(self, version: str, output: Output, report: UnitReport, reporter: Reporter) -> None:
        """Captures are read as they are."""
        del output, report
        if self.memory is not None:
            reporter.say(self.memory.describe(MODEL_NAME, version))

    def open(self, version: str, output: Output) -> FlowScorer:
        """See `Job`."""
        del output
        directory, _ = Registry(self.registry, cache=self.cache).open(MODEL_NAME, version)
        edition = TrafficEdition.load(directory)
        return FlowScorer(
            edition,
            version=version,
            captures=self.captures,
            block_rows=self.block_rows,
            memory=None if self.memory is None else ClassMemory.of(self.memory, edition, version),
        )


@dataclass(frozen=True)
class ClassMemory:
    """What corrects verdicts, and the names of its columns."""

    replica: MemoryReplica
    classes: tuple[str, ...]

    @classmethod
    def of(cls, source: MemorySource, edition: TrafficEdition, version: str) -> ClassMemory:
        """A version's, as it is now."""
        own = edition.classes
        replica = source.of_classes(version, d=edition.keys.centre.shape[0], classes=len(own))
        return cls(replica, class_names(own, new_classes(source.log(MODEL_NAME, version))))


class FlowScorer:
    """A traffic edition over the flows of captures, which stream through a flow table."""

    def __init__(
        self,
        edition: TrafficEdition,
        *,
        version: str,
        captures: tuple[InputFile, ...],
        block_rows: int = FLOWS_A_BLOCK,
        memory: ClassMemory | None = None,
    ) -> None:
        self._memory = memory
        self._edition = edition
        self._version = version
        self._captures = captures
        self._block_rows = block_rows
        # A struct's fields need names that differ.
        self._probabilities = pl.Struct({name: pl.Float32() for name in edition.classes})

    def read(self, unit: int, report: UnitReport) -> Iterator[FlowBlock]:
        """The flows of a capture in the order in which they end.

        A file that is no capture is rejected; damage inside one too, and what came before it is
        scored.
        """
        capture = self._captures[unit]
        meter = FlowMeter(FlowSettings(kept_packets=self._edition.packets))
        try:
            with fsspec.open(capture.url, "rb") as stream, open_capture(stream) as packets:
                for flows in in_blocks(read_flows(packets, meter), self._block_rows):
                    yield FlowBlock(flows, capture.url)
                for damage, times in packets.damage.items():
                    report.reject(capture.url, f"{damage} ×{times}: the rest was scored")
        except NotACaptureError as error:
            # The stream's name is the file's; the reason follows it.
            report.reject(capture.url, str(error))
        except OSError as error:
            report.reject(capture.url, error.strerror or str(error))
        report.count("packets", sum(meter.outcomes.values()))

    def score(self, block: FlowBlock) -> pl.DataFrame:
        """One row per flow: 5-tuple, times, totals, and the verdict.

        A memory may name a class that the version never knew: `label` and `confidence` say so,
        `probabilities` are of the version's own classes and sum to less then.
        """
        verdicts = self._edition.classify(block.flows)
        probability, classes = verdicts.probability, self._edition.classes
        if self._memory is not None:
            classes = self._memory.classes
            keys = self._edition.memory_keys(probability, verdicts.hidden)
            probability, _ = corrected_classes(self._memory.replica, keys, probability)
        flow = block.flows.flow
        n = len(flow)
        return pl.DataFrame(
            {
                "capture": pl.repeat(block.capture, n, dtype=pl.String, eager=True),
                "flow": flow["number"],
                "source": _addresses(flow, "src"),
                "source_port": flow["src_port"],
                "destination": _addresses(flow, "dst"),
                "destination_port": flow["dst_port"],
                "protocol": _names(flow["protocol"], PROTOCOL_NAMES),
                "start": _times(flow["first_ns"]),
                "end": _times(flow["last_ns"]),
                "packets_out": flow["packets"][:, 0],
                "packets_in": flow["packets"][:, 1],
                "bytes_out": flow["bytes"][:, 0],
                "bytes_in": flow["bytes"][:, 1],
                "end_reason": _names(flow["end_reason"], END_REASONS),
                "label": self._edition.names(probability, classes),
                "confidence": probability.max(axis=1, initial=0),
                "probabilities": pl.DataFrame(
                    dict(zip(self._edition.classes, probability.T, strict=False)),
                    schema=self._probabilities.to_schema(),
                ).to_struct("probabilities"),
                "tier": pl.repeat(str(self._edition.tier), n, dtype=pl.String, eager=True),
                "model_version": pl.repeat(self._version, n, dtype=pl.String, eager=True),
            }
        )


def in_blocks(batches: Iterable[FlowBatch], rows: int) -> Iterator[FlowBatch]:
    """The same flows in batches of `rows`; the last one has what is left."""
    waiting: list[FlowBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= rows:
            joined = FlowBatch.concatenate(waiting)
            whole = count - count % rows
            for begin in range(0, whole, rows):
                yield joined[begin : begin + rows]
            waiting = [joined[whole:]] if count > whole else []
            count -= whole
    if count:
        yield FlowBatch.concatenate(waiting)


END_REASONS = {int(reason): reason.name.lower() for reason in EndReason}
_address = lru_cache(maxsize=REMEMBERED_ADDRESSES)(address_text)


def _addresses(flow: NDArray[np.void], end: str) -> list[str]:
    return [
        _address(hi, lo)
        for hi, lo in zip(flow[f"{end}_hi"].tolist(), flow[f"{end}_lo"].tolist(), strict=True)
    ]


def _names(numbers: NDArray[np.uint8], names: dict[int, str]) -> list[str]:
    return [names.get(number) or str(number) for number in numbers.tolist()]


def _times(ns: NDArray[np.int64]) -> pl.Series:
    return pl.Series(ns).cast(pl.Datetime("ns", "UTC"))
