"""Flows in, class logits out: whole flows, or packet by packet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.traffic.embedding import FlowEmbedding, FlowTensors
from models.traffic.encoder import EncoderState, TrafficEncoder
from models.traffic.mixers import MixerState


class Classified(NamedTuple):
    """A verdict on each of P flows.

    Shapes:
        logits: (P, classes)
        hidden: (P, d_model), what the logits are linear in; the key under which an error of this
            verdict is remembered
    """

    logits: Tensor
    hidden: Tensor


class TrafficClassifier(nn.Module):
    """A linear head on the encoder's class token.

    Example:
        >>> embedding = FlowEmbedding(EmbeddingConfig(fields=12), d_model=128)  # doctest: +SKIP
        >>> model = TrafficClassifier(embedding, TrafficEncoder(EncoderConfig()), classes=12)
        >>> model(flows).logits.argmax(-1)
        >>> state = model.initial_state(flows=1)
        >>> state = model.step(first_packet, torch.tensor([0]), state)
        >>> model.peek(state).logits
    """

    def __init__(self, embedding: FlowEmbedding, encoder: TrafficEncoder, classes: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, flows: FlowTensors) -> Classified:
        """Verdicts on whole flows."""
        tokens = self.embedding(flows)
        # What is behind the longest flow's end changes nothing: a batch of short flows is cheap.
        longest = int(tokens.counts.max()) if len(tokens.counts) else 0
        hidden = self.encoder.flow(tokens.values[:, :longest], tokens.counts)
        return Classified(self.head(hidden), hidden)

    def initial_state(self, flows: int) -> EncoderState:
        """The state before a flow's first packet."""
        return self.encoder.initial_state(flows)

    def step(self, packet: FlowTensors, place: Tensor, state: EncoderState) -> EncoderState:
        """Read one more packet of each flow (`FlowEmbedding.next_packet`); the old state stays."""
        tokens = self.embedding.next_packet(packet, place)
        for t in range(int(tokens.counts.max()) if len(tokens.counts) else 0):
            there = tokens.counts > t
            _, after = self.encoder.step(tokens.values[:, t], state)
            state = after if bool(there.all()) else _merge(there, after, state)
        return state

    def peek(self, state: EncoderState) -> Classified:
        """The verdicts as they would be if each flow ended here."""
        hidden = self.encoder.peek(state)
        return Classified(self.head(hidden), hidden)


def _merge(chosen: Tensor, yes: EncoderState, no: EncoderState) -> EncoderState:
    """Rows of `yes` where `chosen`, of `no` elsewhere."""

    def each(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (a.dim() - 1)), a, b)

    return EncoderState(
        tuple(
            MixerState(each(a.conv, b.conv), each(a.scan, b.scan))
            for a, b in zip(yes.layers, no.layers, strict=True)
        )
    )
