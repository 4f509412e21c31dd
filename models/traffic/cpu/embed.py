"""A packet's features and its token as one kernel, for the next packet of each flow.

As in `step.py`, what costs is the number of torch operations, not what they compute. The slow twin
is `embedding.packet_features` with the two layers behind it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.traffic.cpu.compiled import compiled
from models.traffic.cpu.flat import Floats, flat_floats
from models.traffic.cpu.vector import LANES, fma, load, splat, total

Ints = NDArray[np.int64]


class TokenWeights(NamedTuple):
    """The layers that make a token of features.

    Shapes:
        enter: (H, F); enter_bias: (H,); leave: (d_model, H); leave_bias: (d_model,)
    """

    enter: Tensor
    enter_bias: Tensor
    leave: Tensor
    leave_bias: Tensor


class FeatureScales(NamedTuple):
    """What quantities are measured in; see `embedding.packet_features`."""

    size_bytes: float
    largest: float
    gap_units_s: tuple[float, ...]
    periods_bytes: tuple[float, ...]
    field_bits: int


def fused_tokens(
    size: Tensor, direction: Tensor, gap_s: Tensor, fields: Tensor, weights: TokenWeights,
    scales: FeatureScales,
) -> Tensor:  # fmt: skip
    """A token for one packet of each of P flows, without gradients; H in multiples of 16.

    Shapes:
        size, direction, gap_s: (P,); fields: (P, K); returns: (P, d_model)
    """
    out = torch.empty(len(size), len(weights.leave))
    whole = [each.to(torch.int64).contiguous().view(-1).numpy() for each in (size, fields)]
    real = [flat_floats(each.float()) for each in (direction, gap_s)]
    tokens_kernel(
        *whole, *real, *map(flat_floats, weights), flat_floats(out),
        np.array(scales.gap_units_s, np.float32), np.array(scales.periods_bytes, np.float32),
        scales.size_bytes, scales.largest, scales.field_bits,
        fields.shape[1], *weights.enter.shape, len(weights.leave),
    )  # fmt: skip
    return out


@compiled
def tokens_kernel(
    size: Ints, fields: Ints, direction: Floats, gap_s: Floats, enter: Floats, enter_bias: Floats,
    leave: Floats, leave_bias: Floats, out: Floats, units: Floats, periods: Floats,
    size_scale: float, largest: float, bits: int, count: int, hidden: int, width: int,
    d_model: int,
) -> None:  # fmt: skip
    """`count` fields a packet, `width` features, `hidden` values between the layers."""
    seen = np.empty(width, np.float32)
    middle = np.empty(hidden, np.float32)
    log_largest = np.float32(np.log1p(largest))
    turn = np.float32(2 * np.pi)
    one = np.float32(1.0)
    waves = 4 + units.size + count  # where sines begin, and behind them cosines and bits
    for p in range(size.size):
        bytes_, way, gap = np.float32(size[p]), direction[p], gap_s[p]
        seen[0] = way
        seen[1] = way * min(bytes_ / np.float32(size_scale), np.float32(2.0))
        seen[2] = way * np.log1p(bytes_) / log_largest
        for i in range(units.size):
            seen[3 + i] = gap / (gap + units[i])
        seen[3 + units.size] = one if gap > 0 else np.float32(0.0)
        for i in range(periods.size):
            angle = bytes_ * (turn / periods[i])
            seen[waves + i] = np.sin(angle)
            seen[waves + periods.size + i] = np.cos(angle)
        for k in range(count):
            field = fields[p * count + k]
            seen[4 + units.size + k] = np.log1p(np.float32(field)) / log_largest
            for bit in range(bits):
                at = waves + 2 * periods.size + k * bits + bit
                seen[at] = np.float32((field >> bit) & 1)
        for h in range(hidden):
            x = enter_bias[h] + _dot(enter, h * width, seen, width)
            middle[h] = x / (one + np.exp(-x))
        for d in range(d_model):
            out[p * d_model + d] = leave_bias[d] + _dot(leave, d * hidden, middle, hidden)


@compiled
def _dot(weights: Floats, row: int, vector: Floats, size: int) -> float:
    found = splat(np.float32(0.0))
    whole = size - size % LANES
    for k in range(0, whole, LANES):
        found = fma(load(weights, row + k), load(vector, k), found)
    rest = np.float32(0.0)
    for k in range(whole, size):
        rest += weights[row + k] * vector[k]
    return float(total(found) + rest)
