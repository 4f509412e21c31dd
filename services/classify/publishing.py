"""A sensor's part: flows that ended, as records in the partition of their 5-tuple."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from feature_store.queues import QueueFullError, QueueUnavailableError, QueueWriter
from feature_store.traffic import FlowMeter
from feature_store.traffic.flows import FlowBatch
from feature_store.traffic.meter import LIVE_SLACK_NS
from feature_store.traffic.records import encode_flows, flow_partitions
from services.classify.source import Source

FLOWS_A_MESSAGE = 128
LONGEST_WAIT_S = 1.0
RETRY_S = 0.05


@dataclass
class PublishCounts:
    """What became of the flows of a source.

    Attributes:
        flows: that the queue has.
        dropped: that a live source could not get rid of in time.
    """

    flows: int = 0
    messages: int = 0
    bytes: int = 0
    dropped: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the last line of a report."""
        return dict(vars(self))


class FlowPublisher:
    """Collects flows by partition and writes them a message at a time.

    Args:
        patience_s: how long a full or absent queue is waited for before flows are dropped and
            counted; None, for files, waits until it takes them.
        stop: ends that wait.
    """

    def __init__(
        self,
        writer: QueueWriter,
        *,
        with_bytes: bool = False,
        flows_a_message: int = FLOWS_A_MESSAGE,
        patience_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.counts = PublishCounts()
        self._writer = writer
        self._with_bytes = with_bytes
        self._most = flows_a_message
        self._patience_s = patience_s
        self._stop = stop
        self._monotonic = monotonic
        self._sleep = sleep
        self._waiting: list[list[FlowBatch]] = [[] for _ in range(writer.partitions)]
        self._sizes = [0] * writer.partitions
        self._flush_at = monotonic() + LONGEST_WAIT_S

    def add(self, flows: FlowBatch) -> None:
        """Take flows that ended."""
        places = flow_partitions(flows, len(self._waiting))
        for place in np.unique(places).tolist():
            mine = flows[places == place]
            for begin in range(0, len(mine), self._most):
                some = mine[begin : begin + self._most]
                self._waiting[place].append(some)
                self._sizes[place] += len(some)
                if self._sizes[place] >= self._most:
                    self._send(place)

    def tick(self) -> None:
        """Time has passed: no flow waits longer than a second for others."""
        if self._monotonic() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Write everything that waits.

        Raises:
            QueueUnavailableError: the queue does not have what it was given.
        """
        for place in range(len(self._waiting)):
            self._send(place)
        self._flush_at = self._monotonic() + LONGEST_WAIT_S

    def close(self) -> None:
        """Write everything, and return when the queue has it; see `flush`."""
        self.flush()
        self._writer.flush()

    def _send(self, place: int) -> None:
        if not self._waiting[place]:
            return
        flows = FlowBatch.concatenate(self._waiting[place])
        self._waiting[place], self._sizes[place] = [], 0
        payload = encode_flows(flows, with_bytes=self._with_bytes)
        if self._written(place, payload):
            self.counts.flows += len(flows)
            self.counts.messages += 1
            self.counts.bytes += len(payload)
        else:
            self.counts.dropped += len(flows)

    def _written(self, place: int, payload: bytes) -> bool:
        """A message that may have been written is written again: readers know flows by their id."""
        give_up = None if self._patience_s is None else self._monotonic() + self._patience_s
        while True:
            try:
                self._writer.write(place, payload)
            except (QueueFullError, QueueUnavailableError):
                if self._stop() or (give_up is not None and self._monotonic() >= give_up):
                    return False
                self._sleep(RETRY_S)
            else:
                return True


def publish_flows(
    source: Source,
    meter: FlowMeter,
    publisher: FlowPublisher,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """All flows of a source; those that run when it ends, or `stop()` says so, end with it."""
    for batch in source.packets:
        if len(batch):
            for flows in meter.add(batch):
                publisher.add(flows)
        elif source.clock is not None:
            for flows in meter.advance(source.clock.now_ns() - LIVE_SLACK_NS):
                publisher.add(flows)
        publisher.tick()
        if stop():
            break
    for flows in meter.finish():
        publisher.add(flows)
    publisher.close()
