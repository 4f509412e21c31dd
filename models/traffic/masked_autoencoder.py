"""Pre-training without labels: hide most tokens, encode the rest, and rebuild what was hidden.

After NetMamba (arXiv 2405.11449, section IV-D), a masked autoencoder of strides. Beside it, packet
tokens are hidden at a lower rate, since they are few and say less about each other. The flow's
vector enters the decoder first: only so does the class token learn before it meets a label.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.traffic.embedding import FlowEmbedding, FlowTensors, Parts, coarse_count
from models.traffic.encoder import Block, EncoderConfig, TrafficEncoder


class AutoencoderConfig(BaseModel):
    """How much is hidden, and the size of the decoder, which is thrown away afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_strides: float = Field(0.9, ge=0, lt=1)
    hidden_packets: float = Field(0.5, ge=0, lt=1)
    d_decoder: int = Field(128, ge=1)
    decoder_layers: int = Field(2, ge=1)


class Visible(NamedTuple):
    """The tokens that were not hidden, moved to the front in their order.

    Shapes (V is the largest count):
        values: (P, V, d_model); counts: (P,); place: (P, V), where each was
    """

    values: Tensor
    counts: Tensor
    place: Tensor


class MaskedAutoencoder(nn.Module):
    """Flows in, reconstruction loss out; trains the embedding and the encoder that it is given."""

    def __init__(
        self, embedding: FlowEmbedding, encoder: TrafficEncoder, config: AutoencoderConfig
    ) -> None:
        super().__init__()
        self.embedding, self.encoder, self.config = embedding, encoder, config
        width = config.d_decoder
        self.enter = nn.Linear(encoder.config.d_model, width)
        self.hidden_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.position = nn.Parameter(torch.empty(embedding.length, width).normal_(std=0.02))
        block = EncoderConfig(
            **{**encoder.config.model_dump(), "d_model": width, "layers": config.decoder_layers}
        )
        self.blocks = nn.ModuleList(
            Block(block, drop_path=0.0) for _ in range(config.decoder_layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        if embedding.own:
            self.packet = nn.Linear(width, coarse_count(embedding.config.fields))
        if embedding.strides:
            self.octets = nn.Linear(width, embedding.config.stride)

    def forward(self, flows: FlowTensors, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error on hidden tokens, packets and strides added; zero if none is hidden.

        Args:
            generator: draws what is hidden, on the flows' device.
        """
        tokens = self.embedding(flows)
        place = torch.arange(self.embedding.length, device=tokens.values.device)
        there = place < tokens.counts[:, None]  # (P, T)
        hidden = self.hide(there, generator)
        visible = _visible(tokens.values, there & ~hidden)
        encoded = self.encoder(visible.values, visible.counts)
        rebuilt = self._decode(encoded.tokens, encoded.flow, visible)
        targets, chosen = self.embedding.targets(flows), self.embedding.split(hidden)
        loss: Tensor = tokens.values.new_zeros(())
        for found, wanted, where in zip(rebuilt, targets, chosen, strict=True):
            if found is not None and wanted is not None and where is not None:
                error = ((found - wanted) ** 2).mean(-1)  # (P, T)
                loss = loss + (error * where).sum() / where.sum().clamp(min=1)
        return loss

    def hide(self, there: Tensor, generator: torch.Generator | None) -> Tensor:
        """(P, T) bool: which tokens are hidden, a fixed share of those that are there.

        The share is rounded down: of a single token nothing is hidden.
        """
        parts = self.embedding.split(there)
        shares = Parts(
            _chosen(parts.packets, self.config.hidden_packets, generator),
            _chosen(parts.strides, self.config.hidden_strides, generator),
        )
        return self.embedding.join(shares)

    def _decode(self, tokens: Tensor, flow: Tensor, visible: Visible) -> Parts:
        rows, shown = visible.place.shape
        full = self.hidden_token.expand(rows, self.embedding.length, -1)
        seen = torch.arange(shown, device=tokens.device) < visible.counts[:, None]  # (P, V)
        row, column = seen.nonzero(as_tuple=True)
        full = full.index_put((row, visible.place[row, column]), self.enter(tokens[row, column]))
        x = torch.cat([self.enter(flow)[:, None], full + self.position], dim=1)
        for block in self.blocks:
            x = block(x)
        parts = self.embedding.split(self.norm(x[:, 1:]))
        return Parts(
            None if parts.packets is None else self.packet(parts.packets),
            None if parts.strides is None else self.octets(parts.strides),
        )


def _chosen(there: Tensor | None, share: float, generator: torch.Generator | None) -> Tensor | None:
    """A random `share` of each row's true places."""
    if there is None:
        return None
    score = torch.rand(there.shape, generator=generator, device=there.device)
    rank = score.masked_fill(~there, torch.inf).argsort(1).argsort(1)
    # In float64: .9 · 10 must stay 9 when it is rounded down.
    count = (there.sum(1, keepdim=True).double() * share + 1e-9).floor()
    return there & (rank < count)


def _visible(values: Tensor, shown: Tensor) -> Visible:
    count = shown.sum(1)
    longest = int(count.max()) if len(count) else 0
    place = (~shown).to(torch.int8).argsort(dim=1, stable=True)[:, :longest]  # (P, V)
    index = place[..., None].expand(-1, -1, values.shape[-1])
    return Visible(values.gather(1, index), count, place)
