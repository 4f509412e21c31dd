"""A served version's memory, for whoever looks into it or decides about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feature_store.error_memory.influence import Influential
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.replica import MemoryReplica


@dataclass(frozen=True)
class Described:
    """A stored error in a person's words.

    Attributes:
        about: what the prediction was about; None where the memory holds no name of it.
        predicted, outcome: what the model said, and what happened.
    """

    about: str | None
    predicted: str
    outcome: str


@dataclass(frozen=True)
class Remembered:
    """The memory of a version that serves.

    Attributes:
        title: what is served, to tell several of one model apart.
        describe: errors of this memory in words.
    """

    title: str
    tenant: str
    log: MemoryLog
    replica: MemoryReplica
    describe: Callable[[Influential], list[Described]]

    @property
    def model(self) -> str:
        """Whose version it is."""
        return self.log.model

    @property
    def version(self) -> str:
        """Which version it is."""
        return self.log.version
