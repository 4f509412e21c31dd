"""What is given up, and in which order, when packets come faster than verdicts."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Pressure(IntEnum):
    """How far verdicts are behind the input. Each level gives up what the ones before it do."""

    NONE = 0
    NO_PROVISIONAL = 1  # running flows wait for their final verdict
    NEW_FLOWS_WAIT = 2  # flows that begin now never get a provisional one, nor a state
    NO_VERDICT = 3  # the last provisional verdict stands as the final one; without one, none


class Shed(StrEnum):
    """What was given up, as it is counted."""

    PROVISIONAL = "provisional_verdicts"
    FINAL_ONLY = "flows_without_provisional"
    NO_VERDICT = "flows_without_verdict"


class LatencyBudget(BaseModel):
    """Bounds on time and memory.

    Attributes:
        latency_ms: when the oldest packet that waits has waited longer, what `Pressure` says is
            shed: the first level from here on, the second from twice, the third from four times
            as far.
        micro_batch: flows that are read together; between two batches the lag is looked at.
        states: recurrent states at most; see `StatePool`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: float = Field(25.0, gt=0)
    micro_batch: int = Field(256, ge=1, le=1024)
    states: int = Field(4096, ge=1024)

    def pressure(self, behind_ns: int) -> Pressure:
        """The level at a lag."""
        behind = behind_ns / (self.latency_ms * 1e6)
        if behind <= 1:
            return Pressure.NONE
        if behind <= 2:
            return Pressure.NO_PROVISIONAL
        return Pressure.NEW_FLOWS_WAIT if behind <= 4 else Pressure.NO_VERDICT
