"""Tokens of a flow's first packets, from what is configured to be seen of them.

- *Packet tokens*: one per packet, from its signed size, the gap before it, and header fields. Gaps
  enter as sigmoid(log(gap / unit)), as in NetMamba+ (arXiv 2601.21792), in several units.
- *Stride tokens*: one per 4 bytes of the first packets, as in NetMamba (arXiv 2405.11449).

With both, each packet's token comes before its strides, so that a flow can be read as it arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.traffic import cpu
from models.traffic.cpu.embed import FeatureScales, TokenWeights, fused_tokens

GAP_UNITS_S = (1.0, 1e-2, 1e-4, 1e-6)
SIZE_PERIODS_BYTES = tuple(2.0**k for k in range(2, 12))
FIELD_BITS = 16
SIZE_SCALE_BYTES, LARGEST = 1500.0, 65535.0
FEATURE_SCALES = FeatureScales(
    SIZE_SCALE_BYTES, LARGEST, GAP_UNITS_S, SIZE_PERIODS_BYTES, FIELD_BITS
)


class EmbeddingConfig(BaseModel):
    """Which tokens a flow becomes. The defaults are tier T0; T1 has 20 fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packets: int = Field(20, ge=0, description="packets with a token of their own")
    fields: int = Field(0, ge=0, description="header fields of such a packet")
    byte_packets: int = Field(0, ge=0, description="packets whose bytes become strides")
    packet_bytes: int = Field(320, ge=1, description="bytes of such a packet")
    stride: int = Field(4, ge=1, description="bytes of a stride")
    positions: bool = Field(True, description="add a learned vector to each place")

    @model_validator(mode="after")
    def _has_tokens(self) -> Self:
        if not self.packets and not self.byte_packets:
            raise ValueError("one of packets and byte_packets must be above 0")
        if self.packets and self.byte_packets > self.packets:
            raise ValueError(
                f"byte_packets={self.byte_packets} is above packets={self.packets}: "
                "bytes are of packets that have a token"
            )
        if self.packet_bytes % self.stride:
            raise ValueError(f"packet_bytes={self.packet_bytes} is no multiple of {self.stride}")
        return self


class FlowTensors(NamedTuple):
    """What is seen of P flows; zero behind a flow's end. Any integer dtypes.

    Shapes:
        kept: (P,), packets that are there
        size: (P, M), bytes; direction: (P, M), +1 or -1; gap_s: (P, M) float32, seconds
        fields: (P, M, K), unsigned 16-bit numbers; K is 0 where none is seen
        octets: (P, Q, W) uint8, bytes of the first Q packets; W is 0 where none is seen
    """

    kept: Tensor
    size: Tensor
    direction: Tensor
    gap_s: Tensor
    fields: Tensor
    octets: Tensor

    def gather(self, rows: Tensor) -> FlowTensors:
        """Some of the flows."""
        return FlowTensors(*(column[rows] for column in self))

    def to(self, device: torch.device | str) -> FlowTensors:
        """The same flows on another device."""
        return FlowTensors(*(column.to(device) for column in self))


class Tokens(NamedTuple):
    """Tokens of P flows.

    Shapes:
        values: (P, T, d_model); counts: (P,) int64, the tokens that are there, a prefix of T
    """

    values: Tensor
    counts: Tensor


class Parts(NamedTuple):
    """Something for each packet token and for each stride token; None for what is not configured.

    Shapes:
        packets: (P, packets, ...); strides: (P, byte_packets · strides a packet, ...)
    """

    packets: Tensor | None
    strides: Tensor | None


class FlowEmbedding(nn.Module):
    """Flows in, tokens out: all at once, or packet by packet."""

    def __init__(self, config: EmbeddingConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        self.strides = config.packet_bytes // config.stride if config.byte_packets else 0
        self.own = 1 if config.packets else 0  # tokens of a packet beside its strides
        reach = max(config.packets, config.byte_packets)
        counts = [self.own + self.strides * (p < config.byte_packets) for p in range(reach)]
        self.register_buffer("_begin", torch.tensor([0, *counts]).cumsum(0), persistent=False)
        self._begin: Tensor  # (reach + 1,), tokens before each packet
        self.length = sum(counts)
        if config.packets:
            # The packet's features are sparse and nonlinear: a hidden layer tells sizes apart.
            self.packet = nn.Sequential(
                nn.Linear(feature_count(config.fields), 2 * d_model),
                nn.SiLU(),
                nn.Linear(2 * d_model, d_model),
            )
        if config.byte_packets:
            self.octets = nn.Linear(config.stride, d_model)
        if config.positions:
            self.position = nn.Parameter(torch.empty(self.length, d_model).normal_(std=0.02))

    def forward(self, flows: FlowTensors) -> Tokens:
        """Tokens of whole flows. Packets beyond the configured number are not looked at."""
        values = self.join(
            Parts(
                self.packet(self._features(flows)) if self.own else None,
                self.octets(self._strides(flows)) if self.strides else None,
            )
        )
        if self.config.positions:
            values = values + self.position
        return Tokens(values, self.count(flows.kept))

    def next_packet(self, flows: FlowTensors, place: Tensor) -> Tokens:
        """Tokens of one more packet of each flow, which is its `place`-th, from 0 on.

        `flows` has columns for that packet only: M = Q = 1; `kept` is not looked at. A packet whose
        place is beyond the configured number has no tokens.

        Shapes:
            place: (P,) int64
        """
        parts = []
        if self.own:
            parts.append(self._next_token(flows))  # (P, 1, d)
        if self.strides:
            parts.append(self.octets(_in_strides(flows.octets, self.config.stride)))  # (P, S, d)
        values = torch.cat(parts, dim=1)
        count = self.count(place + 1) - self.count(place)
        if self.config.positions:
            index = self.count(place)[:, None] + torch.arange(values.shape[1], device=place.device)
            values = values + self.position[index.clamp(max=self.length - 1)]
        return Tokens(values, count)

    def _next_token(self, flows: FlowTensors) -> Tensor:
        enter, _, leave = cast(Sequence[nn.Linear], self.packet)
        if torch.is_grad_enabled() or not cpu.supports(leave.weight) or not len(flows.size):
            return self.next_token_by_parts(flows)
        _check_fields(flows, self.config.fields)
        weights = TokenWeights(enter.weight, enter.bias, leave.weight, leave.bias)
        fields = flows.fields[:, 0, : self.config.fields]
        seen = flows.size[:, 0], flows.direction[:, 0], flows.gap_s[:, 0]
        return fused_tokens(*seen, fields, weights, FEATURE_SCALES)[:, None]

    def next_token_by_parts(self, flows: FlowTensors) -> Tensor:
        """(P, 1, d_model): the token of one packet of each flow, on any device."""
        token: Tensor = self.packet(packet_features(flows, self.config.fields))
        return token

    def count(self, kept: Tensor) -> Tensor:
        """(P,) int64: how many tokens the first `kept` packets have."""
        return self._begin[kept.long().clamp(0, len(self._begin) - 1)]

    def join(self, parts: Parts) -> Tensor:
        """(P, T, ...): packets and strides in the order of tokens."""
        if parts.packets is None or parts.strides is None:
            one = parts.strides if parts.packets is None else parts.packets
            assert one is not None
            return one
        seen = self.config.byte_packets
        strides = parts.strides.reshape(
            -1, seen, self.strides, *parts.strides.shape[2:]
        )  # (P, Q, S, ...)
        first = torch.cat([parts.packets[:, :seen, None], strides], dim=2).flatten(1, 2)
        return torch.cat([first, parts.packets[:, seen:]], dim=1)

    def split(self, tokens: Tensor) -> Parts:
        """The inverse of `join`."""
        if not self.strides:
            return Parts(tokens, None)
        if not self.own:
            return Parts(None, tokens)
        seen = self.config.byte_packets
        both = seen * (1 + self.strides)
        first = tokens[:, :both].reshape(-1, seen, 1 + self.strides, *tokens.shape[2:])
        packets = torch.cat([first[:, :, 0], tokens[:, both:]], dim=1)
        return Parts(packets, first[:, :, 1:].flatten(1, 2))

    def targets(self, flows: FlowTensors) -> Parts:
        """What each token stands for, for reconstruction; every number is of order 1."""
        coarse = coarse_count(self.config.fields)
        return Parts(
            self._features(flows)[..., :coarse] if self.own else None,
            self._strides(flows) if self.strides else None,
        )

    def _features(self, flows: FlowTensors) -> Tensor:
        packets, found = self.config.packets, flows.size.shape[1]
        if found < packets:
            raise ValueError(f"flows have {found} packets, the embedding reads {packets}")
        return packet_features(
            flows._replace(
                size=flows.size[:, :packets],
                direction=flows.direction[:, :packets],
                gap_s=flows.gap_s[:, :packets],
                fields=flows.fields[:, :packets],
            ),
            self.config.fields,
        )

    def _strides(self, flows: FlowTensors) -> Tensor:
        wanted = (self.config.byte_packets, self.config.packet_bytes)
        found = tuple(flows.octets.shape[1:])
        if found[0] < wanted[0] or found[1] < wanted[1]:
            raise ValueError(f"flows have {found} (packets, bytes), the embedding reads {wanted}")
        return _in_strides(flows.octets[:, : wanted[0], : wanted[1]], self.config.stride)


def coarse_count(fields: int) -> int:
    """How many of `packet_features` come first and are smooth: what a decoder can aim at."""
    return 3 + len(GAP_UNITS_S) + 1 + fields


def feature_count(fields: int) -> int:
    """The width of `packet_features`."""
    return coarse_count(fields) + 2 * len(SIZE_PERIODS_BYTES) + FIELD_BITS * fields


def packet_features(flows: FlowTensors, fields: int) -> Tensor:
    """(P, M, F) float32, each of order 1.

    Direction; signed size, linear and logarithmic; the gap in several units, and whether there is
    one; the logarithm of each field. Then what tells exact values apart: sines and cosines of the
    size at periods from 4 to 2048 bytes, and the bits of each field.
    """
    _check_fields(flows, fields)
    direction = flows.direction.float()[..., None]  # (P, M, 1)
    size = flows.size.float()[..., None]
    gap = flows.gap_s.float()[..., None]
    units = gap.new_tensor(GAP_UNITS_S)
    field = flows.fields[..., :fields].to(torch.int32)  # (P, M, K)
    angle = size * (2 * math.pi / size.new_tensor(SIZE_PERIODS_BYTES))  # (P, M, 10)
    bits = (field[..., None] >> torch.arange(FIELD_BITS, device=field.device)) & 1
    log_largest = math.log1p(LARGEST)
    return torch.cat(
        [
            direction,
            direction * (size / SIZE_SCALE_BYTES).clamp(max=2),
            direction * torch.log1p(size) / log_largest,
            gap / (gap + units),  # sigmoid(log(gap / unit))
            (gap > 0).float(),
            torch.log1p(field.float()) / log_largest,
            angle.sin(),
            angle.cos(),
            bits.flatten(-2).float(),
        ],
        dim=-1,
    )


def _check_fields(flows: FlowTensors, fields: int) -> None:
    if flows.fields.shape[-1] < fields:
        raise ValueError(f"flows have {flows.fields.shape[-1]} fields, {fields} are read")


def _in_strides(octets: Tensor, stride: int) -> Tensor:
    """(P, Q, W) uint8 → (P, Q·W/stride, stride) float32 in 0 to 1."""
    return (octets.float() / 255).reshape(len(octets), -1, stride)
