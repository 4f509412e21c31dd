"""What training does to flows so that another recording of a class does not look foreign."""

from __future__ import annotations

import torch
from torch import Tensor

from models.traffic.embedding import FlowTensors
from pipelines.traffic.config import AugmentationConfig

LARGEST_SHIFT_BYTES = 8


def augmented(
    flows: FlowTensors, config: AugmentationConfig, generator: torch.Generator
) -> FlowTensors:
    """Flows cut short, with other gaps, and with header fields hidden; see the configuration."""
    n, packets = flows.size.shape
    kept = flows.kept.long()
    cut = _chance(n, config.cut_share, generator)
    shorter = (torch.rand(n, generator=generator) * kept).long() + 1
    kept = torch.where(cut, torch.minimum(shorter, kept), kept)
    there = torch.arange(packets) < kept[:, None]  # (n, M)
    gap = flows.gap_s * there
    if config.gap_scale or config.gap_noise:
        factor = config.gap_scale * torch.randn(n, 1, generator=generator)
        factor = factor + config.gap_noise * torch.randn(n, packets, generator=generator)
        gap = gap * factor.exp()
    size = flows.size
    if config.size_noise:
        moved = torch.rand(n, packets, generator=generator) < config.size_noise
        by = torch.randint(
            -LARGEST_SHIFT_BYTES, LARGEST_SHIFT_BYTES + 1, (n, packets), generator=generator
        )
        size = torch.where(moved, (size + by).clamp(min=20), size.long())
    fields = flows.fields
    if config.hidden_fields and fields.shape[-1]:
        hidden = torch.rand(n, 1, fields.shape[-1], generator=generator) < config.hidden_fields
        fields = fields.masked_fill(hidden, 0)
    octets = flows.octets
    if octets.shape[-1]:
        octets = octets * there[:, : octets.shape[1], None]
    return FlowTensors(
        kept=kept,
        size=size * there,
        direction=flows.direction * there,
        gap_s=gap,
        fields=fields * there[..., None],
        octets=octets,
    )


def _chance(n: int, share: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) < share
