"""The table of bidirectional flows: decoded packets in, flows out."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.flows.first_packets import FirstPackets
from feature_store.traffic.flows.flow import EndReason, FlowBatch
from feature_store.traffic.flows.tracker import (
    FINISHED,
    FREE,
    LIVE,
    Limits,
    Steps,
    end_all,
    expire,
    new_tracker,
    track,
)

SECOND_NS = 1_000_000_000
FINISHED_ROOM = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSettings:
    """When flows end and how much of them is kept.

    Attributes:
        idle_s: a flow without a packet for longer has ended.
        active_s: a flow that is older has ended; what follows is a new one.
        linger_s: a finished TCP connection waits so long for its last packets.
        max_flows: live flows, at about 2.6 kB each with 20 kept packets; beyond it the least
            recently used is evicted.
        kept_packets: M, the first packets whose size, direction, gap and fields are kept.
    """

    idle_s: float = 120.0
    active_s: float = 1800.0
    linger_s: float = 5.0
    max_flows: int = 65_536
    kept_packets: int = 20

    def __post_init__(self) -> None:
        if min(self.idle_s, self.active_s) <= 0 or self.linger_s < 0:
            raise ValueError(
                f"timeouts must be positive: idle {self.idle_s}, active {self.active_s}, "
                f"linger {self.linger_s}"
            )
        if self.max_flows < 1 or self.kept_packets < 1:
            raise ValueError(
                f"max_flows and kept_packets must be at least 1: {self.max_flows}, "
                f"{self.kept_packets}"
            )


class FlowTable:
    """Packets join flows by their 5-tuple, either way round; finished flows come out in batches.

    The iterators do the work as they are read: read each to its end before the next call.

    Attributes:
        ended: finished flows by reason; `EndReason.EVICTED` counts what the memory bound cost.
    """

    def __init__(self, settings: FlowSettings | None = None) -> None:
        self.settings = settings or FlowSettings()
        self.ended: Counter[EndReason] = Counter()
        self._limits = Limits(
            idle_ns=round(self.settings.idle_s * SECOND_NS),
            active_ns=round(self.settings.active_s * SECOND_NS),
            linger_ns=round(self.settings.linger_s * SECOND_NS),
            max_flows=self.settings.max_flows,
            kept=self.settings.kept_packets,
            seed=secrets.randbits(63),
        )
        self._tracker = new_tracker(self.settings.max_flows, FINISHED_ROOM)
        slots = len(self._tracker.hashes)
        self._first_packets = FirstPackets(slots, self.settings.kept_packets)
        self._touched = np.zeros(slots, np.bool_)

    def __len__(self) -> int:
        """Live flows."""
        return int(self._tracker.state[LIVE])

    def add(self, batch: PacketBatch, packets: NDArray[np.void]) -> Iterator[FlowBatch]:
        """Take a batch and its decoded `PACKET`s; give the flows that ended meanwhile."""
        steps = Steps.empty(len(batch))
        begin = 0
        while begin < len(batch):
            end = track(self._tracker, self._limits, packets, batch.timestamp_ns, begin, steps)
            self._first_packets.add(batch, packets, steps, begin, end)
            news = steps.place[begin:end] >= 0
            self._touched[steps.slot[begin:end][news]] = True
            yield from self._take_finished()
            begin = end

    def advance(self, now_ns: int) -> Iterator[FlowBatch]:
        """Say that no packet older than `now_ns` is to come; give the flows that thereby ended."""
        done = False
        while not done:
            done = expire(self._tracker, self._limits, now_ns)
            yield from self._take_finished()

    def finish(self) -> Iterator[FlowBatch]:
        """End and give all flows that are left."""
        done = False
        while not done:
            done = end_all(self._tracker, int(EndReason.CAPTURE_END))
            yield from self._take_finished()

    def touched(self) -> FlowBatch:
        """The live flows that gained one of their first M packets since the last call, as they
        stand: what an early verdict is made of. `flow["number"]` tells them apart."""
        slots = np.flatnonzero(self._touched).astype(np.int32)
        self._touched[slots] = False
        return self._read(slots)

    def _read(self, slots: NDArray[np.int32]) -> FlowBatch:
        return self._first_packets.read(slots, self._tracker.flows[slots])

    def _take_finished(self) -> Iterator[FlowBatch]:
        tracker = self._tracker
        count = int(tracker.state[FINISHED])
        if not count:
            return
        slots = tracker.finished[:count].copy()
        flows = self._read(slots)
        self._touched[slots] = False
        free = int(tracker.state[FREE])
        tracker.free[free : free + count] = slots
        tracker.state[FREE] += count
        tracker.state[FINISHED] = 0
        for reason, ended in enumerate(np.bincount(flows.flow["end_reason"])):
            if ended:
                self.ended[EndReason(reason)] += int(ended)
        yield flows
