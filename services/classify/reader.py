"""What the edition, corrected, says of flows after each of their packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from feature_store.editions.traffic import TrafficEdition, flow_tensors
from feature_store.traffic.flows import FlowBatch
from models.traffic.embedding import FlowTensors
from models.traffic.encoder import EncoderState
from services.classify.correction import Corrector
from services.classify.states import StatePool

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

PEEKS = 512  # verdicts read at once: bounds the copies of states that wait for it


@dataclass(frozen=True)
class Opinions:
    """m opinions, ordered by flow and then by packet.

    Shapes:
        row: (m,) int64, which of the flows; packet: (m,) int64, after which packet, from 1 on
        probability: (m, classes) float32, corrected; own: (m, the edition's classes) float32, not
        hidden: (m, d_model) float32, unit vectors; (m, 0) where nothing but a key needs them
    """

    row: IntArray
    packet: IntArray
    probability: FloatArray
    own: FloatArray
    hidden: FloatArray


class FlowReader:
    """Reads flows packet by packet from their recurrent states, or whole.

    Attributes:
        edition: what reads.
        states: of the flows that are read packet by packet.
    """

    def __init__(self, edition: TrafficEdition, corrector: Corrector, *, states: int) -> None:
        self.edition = edition
        self._corrector = corrector
        with torch.inference_mode():
            self.states = StatePool(edition.network, states)

    def each(self, flows: FlowBatch, first: IntArray, last: IntArray) -> Opinions:
        """Opinions after each packet from `first` to `last`, counted from 1, of every flow.

        A network that has no say is not read for a corrector that asks for no hidden vector:
        `hidden` gives those of the few opinions that are kept under one.
        """
        flows = fitted(flows, self.edition.packets)
        if self.edition.network_is_idle and not self._corrector.reads_hidden:
            row = np.repeat(np.arange(len(flows)), last - first + 1)
            begin = np.cumsum(last - first + 1) - (last - first + 1)
            packet = np.arange(len(row)) - begin[row] + first[row]
            none = np.zeros((len(row), 0), np.float32)
            logits = np.zeros((len(row), len(self.edition.classes)), np.float32)
            return self._decided(flows, row, packet, logits, none)
        with torch.inference_mode():
            row, packet, logits, hidden = self._stepped(flows, first, last)
        order = np.lexsort((packet, row))
        return self._decided(flows, row[order], packet[order], logits[order], hidden[order])

    def whole(self, flows: FlowBatch, last: IntArray) -> Opinions:
        """One opinion on every flow, after packet `last`, without its state."""
        flows = fitted(flows, self.edition.packets)
        logits, hidden = self.edition.read_network(flows.cut(last))
        return self._decided(flows, np.arange(len(flows)), last, logits, hidden)

    def hidden(self, flows: FlowBatch, last: IntArray) -> FloatArray:
        """(n, d_model) unit vectors of flows after packet `last`."""
        return self.edition.read_network(fitted(flows, self.edition.packets).cut(last))[1]

    def _decided(
        self, flows: FlowBatch, row: IntArray, packet: IntArray, logits: FloatArray,
        hidden: FloatArray,
    ) -> Opinions:  # fmt: skip
        probability = self.edition.decide(logits, flows[row].cut(packet))
        corrected = self._corrector.correct(probability, hidden)
        return Opinions(row, packet, corrected, probability, hidden)

    def _stepped(
        self, flows: FlowBatch, first: IntArray, last: IntArray
    ) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        network = self.edition.network
        device = next(network.parameters()).device
        tensors = flow_tensors(flows, self.edition.tier).to(device)
        numbers: list[int] = flows.flow["number"].tolist()
        state, read = self.states.take(numbers)
        peeks = _Peeks(self.edition)
        for _ in range(int((last - read).max(initial=0))):
            chosen = np.flatnonzero(read < last)
            rows = torch.from_numpy(chosen).to(device)
            place = torch.from_numpy(read[chosen]).to(device)
            before = state if len(chosen) == len(numbers) else state.gather(rows)
            after = network.step(_packet(tensors, rows, place), place, before)
            if len(chosen) == len(numbers):
                state = after
            else:
                state.put(rows, after)
            read[chosen] += 1
            asked = np.flatnonzero(read[chosen] >= first[chosen])
            if len(asked):
                wanted = torch.from_numpy(asked).to(device)
                peeks.add(chosen[asked], read[chosen[asked]], after.gather(wanted))
        self.states.put(numbers, state, read)
        return peeks.finish()


def fitted(flows: FlowBatch, packets: int) -> FlowBatch:
    """The flows with room for so many packets each, whatever their table keeps."""
    kept = flows.size.shape[1]
    if kept == packets:
        return flows

    def fit(column: NDArray[Any]) -> NDArray[Any]:
        room = [(0, 0), (0, max(packets - kept, 0)), *[(0, 0)] * (column.ndim - 2)]
        return np.pad(column[:, :packets], room)

    return FlowBatch(
        flow=flows.cut(packets).flow,
        size=fit(flows.size),
        direction=fit(flows.direction),
        gap_ns=fit(flows.gap_ns),
        fields=fit(flows.fields),
        raw=flows.raw,
        header_length=flows.header_length,
    )


class _Peeks:
    """Collects states and reads verdicts off many of them at once."""

    def __init__(self, edition: TrafficEdition) -> None:
        self._network = edition.network
        self._waiting: list[EncoderState] = []
        self._count = 0
        self._row: list[IntArray] = []
        self._packet: list[IntArray] = []
        self._logits: list[FloatArray] = []
        self._hidden: list[FloatArray] = []

    def add(self, row: IntArray, packet: IntArray, state: EncoderState) -> None:
        self._row.append(row)
        self._packet.append(packet)
        self._waiting.append(state)
        self._count += len(row)
        if self._count >= PEEKS:
            self._read()

    def finish(self) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        if self._count or not self._logits:
            self._read()
        none = np.zeros(0, np.int64)
        return (
            np.concatenate([none, *self._row]),
            np.concatenate([none, *self._packet]),
            np.concatenate(self._logits),
            np.concatenate(self._hidden),
        )

    def _read(self) -> None:
        state = EncoderState.stack(self._waiting) if self._waiting else None
        found = self._network.peek(state or self._network.initial_state(0))
        self._logits.append(found.logits.float().cpu().numpy())
        self._hidden.append(normalize(found.hidden.float(), dim=1).cpu().numpy())
        self._waiting, self._count = [], 0


def _packet(flows: FlowTensors, rows: torch.Tensor, place: torch.Tensor) -> FlowTensors:
    """One packet of each chosen flow, as `FlowEmbedding.next_packet` takes it."""
    octets = flows.octets[rows]
    if octets.shape[1]:
        # Behind the packets whose bytes are kept there are no strides, whatever stands here.
        seen = place.clamp(max=octets.shape[1] - 1)
        octets = octets[torch.arange(len(rows), device=rows.device), seen][:, None]
    return FlowTensors(
        kept=flows.kept[rows],
        size=flows.size[rows, place][:, None],
        direction=flows.direction[rows, place][:, None],
        gap_s=flows.gap_s[rows, place][:, None],
        fields=flows.fields[rows, place][:, None],
        octets=octets,
    )
