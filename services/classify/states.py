"""A bounded pool of the network's recurrent states, one for each running flow."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray

from models.traffic.classifier import TrafficClassifier
from models.traffic.encoder import EncoderState


class StatePool:
    """States by flow number; where there are too many the least recently used is dropped.

    A dropped state loses nothing but time: it is read again from the flow's kept packets.

    Attributes:
        capacity: states at most, of 29 kB each in the network that ships.
        dropped: states that had to make room.
    """

    def __init__(self, network: TrafficClassifier, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.dropped = 0
        self._fresh = network.initial_state(1)
        self._states = network.initial_state(capacity)
        self._row: OrderedDict[int, int] = OrderedDict()  # flow number → row, oldest use first
        self._free = list(range(capacity - 1, -1, -1))
        self._read = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        """States in use."""
        return len(self._row)

    def take(self, numbers: list[int]) -> tuple[EncoderState, NDArray[np.int64]]:
        """The states of some flows, copied, and how many packets each has read.

        Raises:
            ValueError: more flows than the pool holds.
        """
        if len(numbers) > self.capacity:
            raise ValueError(f"{len(numbers)} flows at once, but only {self.capacity} states")
        for number in numbers:
            if number in self._row:
                self._row.move_to_end(number)
        fresh = []
        for number in numbers:
            if number not in self._row:
                self._row[number] = self._claim()
                fresh.append(self._row[number])
        if fresh:
            rows = torch.tensor(fresh)
            self._states.put(rows, self._fresh.gather(torch.zeros_like(rows)))
            self._read[fresh] = 0
        rows = self._rows(numbers)
        return self._states.gather(rows), self._read[rows.numpy()].copy()

    def put(self, numbers: list[int], states: EncoderState, read: NDArray[np.int64]) -> None:
        """Keep what `take` gave, further on."""
        rows = self._rows(numbers)
        self._states.put(rows, states)
        self._read[rows.numpy()] = read

    def release(self, number: int) -> None:
        """A flow needs its state no longer."""
        row = self._row.pop(number, None)
        if row is not None:
            self._free.append(row)

    def _claim(self) -> int:
        if self._free:
            return self._free.pop()
        self.dropped += 1
        return self._row.popitem(last=False)[1]

    def _rows(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor([self._row[number] for number in numbers], dtype=torch.long)
