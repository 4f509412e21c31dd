"""Packets in, verdicts out: after every packet of a flow until it has its final one.

Nothing waits. What came meanwhile is read together, a micro-batch of flows at a time; how far that
is behind decides what is given up (`policy.Pressure`). A file has no clock, waits to be read, and
sheds nothing. Without shedding, the verdicts depend on the packets and their order alone, not on
how they were cut into batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.traffic import UNKNOWN, TrafficEdition
from feature_store.traffic.capture import PacketBatch
from feature_store.traffic.flows import EndReason, FlowBatch, FlowSettings
from feature_store.traffic.meter import LIVE_SLACK_NS, FlowMeter
from services.classify.clock import Clock
from services.classify.correction import Corrector, Uncorrected
from services.classify.counts import StreamCounts
from services.classify.policy import LatencyBudget, Pressure, Shed
from services.classify.reader import FlowReader, Opinions
from services.classify.source import Source
from services.classify.verdict import FlowName, Reason, Verdict
from services.names import unique_names

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ServedEdition:
    """An edition and the version that it was published as."""

    edition: TrafficEdition
    version: str


@dataclass(slots=True)
class _Opinion:
    packet: int
    probability: FloatArray
    own: FloatArray
    hidden: FloatArray

    @classmethod
    def of(cls, opinions: Opinions, i: int) -> _Opinion:
        # Copies: a view would keep the arrays of the whole micro-batch.
        return cls(
            int(opinions.packet[i]),
            opinions.probability[i].copy(),
            opinions.own[i].copy(),
            opinions.hidden[i].copy(),
        )


@dataclass(slots=True)
class _Known:
    """What is known of a flow in the table.

    Attributes:
        accounted: packets that have had a verdict, or were shed.
        opinion: the last one.
        final_only: it began under pressure.
        done: its final verdict was given, or given up.
    """

    prediction_id: str
    name: FlowName
    final_only: bool
    accounted: int = 0
    opinion: _Opinion | None = None
    done: bool = False


class StreamClassifier:
    """Classifies the flows of one stream of packets.

    The iterators do the work as they are read: read each to its end before the next call.

    Args:
        served: what classifies; `use` changes it.
        budget: bounds on latency and memory.
        corrector: stands between the edition and every verdict.
        clock: of a live source; None for a file, which can wait.
        settings: of the flow table; by default it keeps what the edition looks at.

    Attributes:
        counts: what was given and given up.
        meter: packets by outcome, and the flow table.
    """

    def __init__(
        self,
        served: ServedEdition,
        *,
        budget: LatencyBudget | None = None,
        corrector: Corrector | None = None,
        clock: Clock | None = None,
        settings: FlowSettings | None = None,
    ) -> None:
        self.budget = budget or LatencyBudget()
        self.counts = StreamCounts()
        self.meter = FlowMeter(settings or FlowSettings(kept_packets=served.edition.packets))
        self._served = served
        self._corrector = corrector or Uncorrected(served.edition.classes)
        self._clock = clock
        self._flows: dict[int, _Known] = {}
        self._reader = self._new_reader()
        self._states_dropped = 0
        self._taken_ns = time.perf_counter_ns()

    def use(self, served: ServedEdition, corrector: Corrector | None = None) -> None:
        """Go on with another version. States are the old one's, and are read anew from the kept
        packets; verdicts that were given stand."""
        self._states_dropped += len(self._reader.states) + self._reader.states.dropped
        self._served = served
        self._corrector = corrector or Uncorrected(served.edition.classes)
        self._reader = self._new_reader()
        for known in self._flows.values():
            known.opinion = None

    def _new_reader(self) -> FlowReader:
        # M, the packet after which the verdict is final.
        self._limit = min(self._served.edition.packets, self.meter.table.settings.kept_packets)
        return FlowReader(self._served.edition, self._corrector, states=self.budget.states)

    @property
    def states_in_use(self) -> int:
        """Recurrent states of running flows; none where the network is not read for them."""
        return len(self._reader.states)

    @property
    def states_dropped(self) -> int:
        """Recurrent states that were given up and had to be read again."""
        return self._states_dropped + self._reader.states.dropped

    def add(self, batch: PacketBatch) -> Iterator[list[Verdict]]:
        """Take packets, at least one; give what is to be said now, a list for each micro-batch."""
        self._taken_ns = time.perf_counter_ns()
        ended = list(self.meter.add(batch))
        yield from self._judge(ended, self.meter.table.touched(), int(batch.timestamp_ns[0]))

    def advance(self, now_ns: int) -> Iterator[list[Verdict]]:
        """Say that no older packet is to come; give the verdicts on flows that thereby ended."""
        self._taken_ns = time.perf_counter_ns()
        for flows in self.meter.advance(now_ns):
            yield from self._judge([flows], None, None)

    def finish(self) -> Iterator[list[Verdict]]:
        """End all flows; give their final verdicts."""
        self._taken_ns = time.perf_counter_ns()
        for flows in self.meter.finish():
            yield from self._judge([flows], None, None)

    def _judge(
        self, ended: list[FlowBatch], running: FlowBatch | None, oldest_ns: int | None
    ) -> Iterator[list[Verdict]]:
        """Final verdicts come first, then the flows that began first."""
        for flows in ended:
            evicted = flows.flow["end_reason"] == EndReason.EVICTED
            self.counts.evicted += int(np.count_nonzero(evicted))
            for begin in range(0, len(flows), self.budget.micro_batch):
                part = flows[begin : begin + self.budget.micro_batch]
                yield self._read(part, ended=True, pressure=self._pressure(oldest_ns))
        if running is None or not len(running):
            return
        waits = running.flow["kept"] < self._limit
        running = running[np.lexsort((running.flow["number"], waits))]
        for begin in range(0, len(running), self.budget.micro_batch):
            part = running[begin : begin + self.budget.micro_batch]
            yield self._read(part, ended=False, pressure=self._pressure(oldest_ns))

    def _pressure(self, oldest_ns: int | None) -> Pressure:
        if self._clock is None or oldest_ns is None:
            return Pressure.NONE
        return self.budget.pressure(self._clock.age_ns(oldest_ns))

    def _read(self, flows: FlowBatch, *, ended: bool, pressure: Pressure) -> list[Verdict]:
        known = [self._know(row, pressure) for row in flows.flow]
        kept = np.minimum(flows.flow["kept"], self._limit).astype(np.int64)
        first, last = np.ones(len(flows), np.int64), np.zeros(len(flows), np.int64)
        whole = []
        for row, flow in enumerate(known):
            if flow.done:
                continue
            if pressure == Pressure.NONE and not flow.final_only:
                first[row], last[row] = flow.accounted + 1, kept[row]
                late = flow.accounted == kept[row] and _last_packet(flow) < kept[row]
            else:
                self._shed_provisional(flow, int(kept[row]))
                late = pressure < Pressure.NO_VERDICT and _last_packet(flow) < kept[row]
            if late and (ended or kept[row] == self._limit):
                whole.append(row)
        verdicts = self._packet_verdicts(flows, known, first, last)
        if whole:
            rows = np.array(whole)
            opinions = self._reader.whole(flows[rows], kept[rows])
            for i, row in enumerate(whole):
                known[row].opinion = _Opinion.of(opinions, i)
        times = flows.flow["first_ns"][:, None] + np.cumsum(flows.gap_ns, axis=1)  # (n, M)
        for row, flow in enumerate(known):
            if not flow.done and (ended or kept[row] == self._limit):
                at_limit = kept[row] == self._limit
                reason = Reason.PACKET_LIMIT if at_limit else Reason.FLOW_END
                last_ns = times[row, kept[row] - 1] if at_limit else flows.flow["last_ns"][row]
                verdicts += self._final(flow, reason, int(last_ns), flows[row : row + 1])
            if ended:
                del self._flows[int(flows.flow["number"][row])]
            if ended or flow.done:
                self._reader.states.release(int(flows.flow["number"][row]))
        return self._with_hidden(verdicts)

    def _with_hidden(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Final verdicts are kept for their label under a hidden vector: those that were made
        without the network get it here, together."""
        rows = [row for row, each in enumerate(verdicts) if each.final and not len(each.hidden)]
        flows = [verdicts[row].seen for row in rows]
        seen = [each for each in flows if each is not None]
        if seen:
            packets = np.array([verdicts[row].packet for row in rows])
            hidden = self._reader.hidden(FlowBatch.concatenate(seen), packets)
            for row, vector in zip(rows, hidden, strict=True):
                verdicts[row] = replace(verdicts[row], hidden=vector.copy())
        return verdicts

    def _know(self, row: np.void, pressure: Pressure) -> _Known:
        number = int(row["number"])
        known = self._flows.get(number)
        if known is None:
            waits = pressure >= Pressure.NEW_FLOWS_WAIT
            known = _Known(unique_names(1)[0], FlowName.of(row), final_only=waits)
            self._flows[number] = known
            self.counts.flows += 1
            self.counts.shed[Shed.FINAL_ONLY] += waits
        return known

    def _shed_provisional(self, flow: _Known, kept: int) -> None:
        """Packets without a verdict of their own; packet M's is the final one."""
        owed = min(kept, self._limit - 1) - flow.accounted
        self.counts.shed[Shed.PROVISIONAL] += max(owed, 0)
        flow.accounted = kept

    def _packet_verdicts(
        self,
        flows: FlowBatch,
        known: list[_Known],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
    ) -> list[Verdict]:
        """Verdicts after each packet, up to the one that is final."""
        rows = np.flatnonzero(first <= last)
        if not len(rows):
            return []
        flows = flows[rows]
        opinions = self._reader.each(flows, first[rows], last[rows])
        times = flows.flow["first_ns"][:, None] + np.cumsum(flows.gap_ns, axis=1)  # (n, M)
        early_exit = self._served.edition.decision.early_exit
        verdicts = []
        for i, (row, packet) in enumerate(
            zip(opinions.row.tolist(), opinions.packet.tolist(), strict=True)
        ):
            flow = known[rows[row]]
            if flow.done:
                continue
            flow.accounted = packet
            flow.opinion = _Opinion.of(opinions, i)
            time_ns = int(times[row, packet - 1])
            if packet == self._limit:
                verdicts += self._final(flow, Reason.PACKET_LIMIT, time_ns, flows[row : row + 1])
            elif early_exit < 1 and float(opinions.probability[i].max()) >= early_exit:
                verdicts += self._final(flow, Reason.EARLY_EXIT, time_ns, flows[row : row + 1])
            else:
                verdicts.append(self._verdict(flow, flow.opinion, Reason.PROVISIONAL, time_ns))
        return verdicts

    def _final(self, flow: _Known, reason: Reason, time_ns: int, seen: FlowBatch) -> list[Verdict]:
        flow.done = True
        opinion, flow.opinion = flow.opinion, None
        if opinion is None:
            self.counts.shed[Shed.NO_VERDICT] += 1
            return []
        return [self._verdict(flow, opinion, reason, time_ns, seen)]

    def _verdict(
        self,
        flow: _Known,
        opinion: _Opinion,
        reason: Reason,
        time_ns: int,
        seen: FlowBatch | None = None,
    ) -> Verdict:
        edition = self._served.edition
        best = int(opinion.probability.argmax())
        confidence = float(opinion.probability[best])
        guess = self._corrector.classes[best]
        verdict = Verdict(
            prediction_id=flow.prediction_id,
            model_version=self._served.version,
            flow=flow.name,
            packet=opinion.packet,
            time_ns=time_ns,
            label=guess if confidence >= edition.decision.unknown_below else UNKNOWN,
            guess=guess,
            confidence=confidence,
            reason=reason,
            probability=opinion.probability,
            own=opinion.own,
            hidden=opinion.hidden,
            seen=seen,
        )
        self.counts.add(verdict, None if reason is Reason.FLOW_END else self._latency_ns(time_ns))
        return verdict

    def _latency_ns(self, time_ns: int) -> int:
        """From the packet; of a file, which waits, from when it was handed over."""
        if self._clock is None:
            return time.perf_counter_ns() - self._taken_ns
        return self._clock.age_ns(time_ns)


def _last_packet(flow: _Known) -> int:
    return 0 if flow.opinion is None else flow.opinion.packet


def classify(
    source: Source, classifier: StreamClassifier, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[list[Verdict]]:
    """All verdicts of a source, in lists as they are made.

    Silence of a live source lets time pass too. After `stop()` what was read has its last verdicts.
    """
    for batch in source.packets:
        if len(batch):
            yield from classifier.add(batch)
        elif source.clock is not None:
            yield from classifier.advance(source.clock.now_ns() - LIVE_SLACK_NS)
        if stop():
            break
    yield from classifier.finish()
