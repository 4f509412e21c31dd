"""What is said of a flow, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.flows import FlowBatch
from feature_store.traffic.packets.packet import address_text
from feature_store.traffic.report import protocol_name

FloatArray = NDArray[np.float32]
_NOTHING: FloatArray = np.empty(0, np.float32)


class Reason(StrEnum):
    """Why a verdict was given when it was. All but the first are final: one of them a flow."""

    PROVISIONAL = "provisional"  # the flow goes on
    EARLY_EXIT = "early_exit"  # sure enough before packet M
    PACKET_LIMIT = "packet_limit"  # packet M
    FLOW_END = "flow_end"


@dataclass(frozen=True, slots=True)
class FlowName:
    """A flow's two ends; the source sent the first packet."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: str

    @classmethod
    def of(cls, flow: np.void) -> FlowName:
        """From a row of `FlowBatch.flow`."""
        return cls(
            source=address_text(flow["src_hi"], flow["src_lo"]),
            source_port=int(flow["src_port"]),
            destination=address_text(flow["dst_hi"], flow["dst_lo"]),
            destination_port=int(flow["dst_port"]),
            protocol=protocol_name(flow),
        )

    def __str__(self) -> str:
        return (
            f"{self.protocol} {self.source}:{self.source_port} > "
            f"{self.destination}:{self.destination_port}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one flow after one of its packets.

    Attributes:
        prediction_id: the same for all verdicts on one flow: a label that arrives later names it.
        packet: how many of the flow's packets it was made from; of an early exit, where.
        time_ns: capture time of that packet; of the flow's last packet at its end.
        label: a class, or `unknown` below the edition's threshold.
        guess: the likeliest class, whether confidence reaches the threshold or not.
        confidence: calibrated probability of `guess`.
        probability: (classes,) calibrated, and corrected by what is remembered.
        own: (the edition's classes,) the edition's own, uncorrected.
        hidden: (d_model,) unit vector, the key under which an error of this verdict is remembered;
            (0,) of a provisional one that was made without the network.
        seen: the flow, of a final verdict; it may hold more packets than the verdict was made from.
    """

    prediction_id: str
    model_version: str
    flow: FlowName
    packet: int
    time_ns: int
    label: str
    guess: str
    confidence: float
    reason: Reason
    probability: FloatArray = field(repr=False, compare=False)
    own: FloatArray = field(repr=False, compare=False)
    hidden: FloatArray = field(repr=False, compare=False)
    seen: FlowBatch | None = field(default=None, repr=False, compare=False)

    @property
    def final(self) -> bool:
        """Whether it is the last on its flow."""
        return self.reason is not Reason.PROVISIONAL

    def to_json(self) -> dict[str, Any]:
        """For a line of JSON; time is seconds since 1970."""
        return {
            "prediction_id": self.prediction_id,
            "model_version": self.model_version,
            "source": self.flow.source,
            "source_port": self.flow.source_port,
            "destination": self.flow.destination,
            "destination_port": self.flow.destination_port,
            "protocol": self.flow.protocol,
            "time": self.time_ns / 1e9,
            "packet": self.packet,
            "label": self.label,
            "guess": self.guess,
            "confidence": round(self.confidence, 6),
            "final": self.final,
            "reason": str(self.reason),
        }

    @classmethod
    def from_json(
        cls, facts: dict[str, Any], *, own: FloatArray = _NOTHING, hidden: FloatArray = _NOTHING
    ) -> Verdict:
        """What `to_json` said, with as much of the numbers as is known."""
        return cls(
            prediction_id=facts["prediction_id"],
            model_version=facts["model_version"],
            flow=FlowName(
                source=facts["source"],
                source_port=facts["source_port"],
                destination=facts["destination"],
                destination_port=facts["destination_port"],
                protocol=facts["protocol"],
            ),
            packet=facts["packet"],
            time_ns=round(facts["time"] * 1e9),
            label=facts["label"],
            guess=facts["guess"],
            confidence=facts["confidence"],
            reason=Reason(facts["reason"]),
            probability=own,
            own=own,
            hidden=hidden,
        )
