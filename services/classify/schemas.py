"""What is asked and answered."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from feature_store.editions.traffic import UNKNOWN
from feature_store.traffic.flows import HEADER_FIELDS, FlowBatch

FieldValue = Annotated[int, Field(ge=0, le=65535)]
FieldName = Literal[
    "ip_header_bytes",
    "traffic_class",
    "fragment_bits",
    "hop_limit_class",
    "transport_header_bytes",
    "payload_bytes",
    "tcp_flags",
    "tcp_window",
    "tcp_mss",
    "tcp_window_scale",
    "tcp_options",
    "icmp_type_code",
    "message_kind",
    "message_type",
    "record_bytes",
    "hello_version",
    "hello_ciphers",
    "hello_extensions",
    "hello_extension_kinds",
    "hello_session_bytes",
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PacketFeatures(_Model):
    """One packet of a flow.

    A model that reads header fields (tier T1) wants `fields` of every packet; of those, what is
    left out is 0.
    """

    size: int = Field(ge=1, le=0xFFFFFF, description="bytes of the IP packet")
    direction: Literal[1, -1] = Field(description="1 from the first packet's sender, -1 to it")
    gap_s: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False, description="since the last one")
    fields: dict[FieldName, FieldValue] = {}


class FlowFeatures(_Model):
    """A flow's first packets, in order; `id` comes back with the verdict."""

    id: str | None = Field(None, max_length=256)
    packets: list[PacketFeatures] = Field(min_length=1, max_length=64)


class FlowsRequest(_Model):
    """Flows whose features the caller has already."""

    flows: list[FlowFeatures] = Field(min_length=1, max_length=1_000)

    def batch(self, packets: int) -> FlowBatch:
        """The flows as columns, cut or padded to so many packets."""
        n = len(self.flows)
        empty = FlowBatch.empty(packets)
        batch = FlowBatch(*(np.zeros((n, *c.shape[1:]), c.dtype) for c in empty.columns()))
        for row, flow in enumerate(self.flows):
            kept = flow.packets[:packets]
            batch.flow["kept"][row] = len(kept)
            for place, packet in enumerate(kept):
                batch.size[row, place] = packet.size
                batch.direction[row, place] = packet.direction
                batch.gap_ns[row, place] = round(packet.gap_s * 1e9) if place else 0
                for name, value in packet.fields.items():
                    batch.fields[row, place, HEADER_FIELDS.index(name)] = value
        return batch


class FlowVerdict(BaseModel):
    """A final verdict on a flow that was given by its features."""

    prediction_id: str
    id: str | None
    packet: int
    label: str
    guess: str
    confidence: float


class FlowsResponse(BaseModel):
    """Verdicts in the order of the request's flows."""

    model_version: str
    verdicts: list[FlowVerdict]


class StreamVerdict(BaseModel):
    """A verdict on a flow of a capture; also what `GET /v1/verdicts` sends."""

    prediction_id: str
    model_version: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: str
    time: float = Field(description="seconds since 1970, by the capture's clock")
    packet: int = Field(description="packets of the flow that it was made from")
    label: str
    guess: str = Field(description="the likeliest class, also where the label is `unknown`")
    confidence: float
    final: bool
    reason: Literal["provisional", "early_exit", "packet_limit", "flow_end"]


class CaptureResponse(BaseModel):
    """Verdicts on an uploaded capture, in the order in which they were made."""

    model_version: str
    verdicts: list[StreamVerdict]
    left_out: int = Field(description="verdicts beyond the most that one answer holds")
    flows: int
    evicted: int = Field(description="flows that ended because more ran at once than are kept")
    packets: dict[str, int] = Field(description="by outcome")
    damage: dict[str, int] = Field(description="what could not be read, by reason")


def _is_a_class(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a class's name is a line of printable characters")
    if name == UNKNOWN:
        raise ValueError(f"{UNKNOWN!r} is no class: it is what is said where none is likely")
    return name


ClassName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=128),
    AfterValidator(_is_a_class),
]


class FlowLabel(BaseModel):
    """What a flow really was.

    Attributes:
        prediction_id: of any verdict on the flow.
        label: a class, known to the model or not.
        source: who says so; what a source said can be forgotten together.
        feedback_id: a label of the flow with the same id counts once.
    """

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = Field(min_length=1, max_length=64)
    label: ClassName
    source: str = Field("", max_length=128)
    feedback_id: str | None = Field(None, max_length=128)


class LabelsRequest(BaseModel):
    """Labels that arrived, late or not."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"labels": [{"prediction_id": "6f1c…", "label": "video", "source": "analyst-7"}]}
            ]
        },
    )

    labels: list[FlowLabel] = Field(min_length=1, max_length=1_000)


class LabelsResponse(BaseModel):
    """What became of each label, in order: learned, duplicate, expired or no_room."""

    outcomes: list[str]
    learned: int


class FlowNow(BaseModel):
    """A flow whose final verdict was given, and what would be said of it now."""

    verdict: StreamVerdict
    similarity: float = Field(description="Cosine of the network's own representations.")
    label: str = Field(description="The verdict as it would be given now.")
    confidence: float


class NeighboursResponse(BaseModel):
    """The flow itself, then the recent flows most like it, the likest first."""

    flows: list[FlowNow]
