"""What mixes a block's tokens: Mamba-1 or Mamba-2 behind one interface.

Both read a whole sequence (`forward`) or go on from a recurrent state (`step`), with equal outputs.
States are values: a step gives a new one and leaves the old alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.traffic.causal_conv import causal_conv, conv_step
from models.traffic.cpu.step import BlockWeights
from models.traffic.selective_scan import scan_step, selective_scan
from models.traffic.ssd import ssd_scan, ssd_step

STEP_MIN, STEP_MAX = 1e-3, 1e-1  # Δ at the start is log-uniform between the two


class MixerKind(StrEnum):
    """Names of the mixers, for configurations."""

    MAMBA1 = "mamba1"
    MAMBA2 = "mamba2"


class MixerState(NamedTuple):
    """What a mixer remembers of P sequences; rows are sequences.

    Shapes:
        conv: (P, K-1, channels), the last inputs of the convolution
        scan: (P, ...), the state of the recurrence
    """

    conv: Tensor
    scan: Tensor

    def gather(self, rows: Tensor) -> MixerState:
        """The states of some sequences, copied."""
        return MixerState(self.conv[rows], self.scan[rows])


class Mixer(nn.Module, ABC):
    """Tokens in, tokens of the same shape out; each sees itself and those before it."""

    @abstractmethod
    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        """Mix whole sequences; `reset` is true where a new flow begins.

        Shapes:
            x, returns: (P, L, d_model); reset: (P, L) bool
        """

    @abstractmethod
    def only_at(self, x: Tensor, row: Tensor, place: Tensor, reset: Tensor | None = None) -> Tensor:
        """What `forward` gives at some places, without what only others need.

        Shapes:
            x: (P, L, d_model); row, place: (F,) int64; returns: (F, d_model)
        """

    @abstractmethod
    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """Mix the next token of each sequence.

        Shapes:
            x, returns: (P, d_model)
        """

    @abstractmethod
    def initial_state(self, sequences: int) -> MixerState:
        """The state before the first token."""


class Mamba1Mixer(Mixer):
    """Mamba-1 (arXiv 2312.00752, figure 3): gate, causal convolution, selective scan."""

    def __init__(self, d_model: int, *, expand: int = 2, d_state: int = 16, taps: int = 4) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.taps = expand * d_model, d_state, taps
        self.rank = math.ceil(d_model / 16)
        self.enter = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv_weight, self.conv_bias = _conv_parameters(self.d_inner, taps)
        self.select = nn.Linear(self.d_inner, self.rank + 2 * d_state, bias=False)
        self.step_size = nn.Linear(self.rank, self.d_inner, bias=False)
        nn.init.uniform_(self.step_size.weight, -(self.rank**-0.5), self.rank**-0.5)
        self.step_bias = nn.Parameter(_step_bias(self.d_inner))
        # S4D-real: A[d, n] = -(n + 1), kept as a logarithm so that it stays negative.
        self.A_log = nn.Parameter(
            torch.arange(1.0, d_state + 1).log().repeat(self.d_inner, 1)  # (E, N)
        )
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.leave = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        """See the interface."""
        # Two products, so that the kernels need not copy halves of one.
        into_u, into_gate = self.enter.weight.chunk(2)
        gate = functional.linear(x, into_gate)  # (P, L, E)
        leave: Tensor = self.leave(self._scanned(functional.linear(x, into_u), gate, reset))
        return leave

    def only_at(self, x: Tensor, row: Tensor, place: Tensor, reset: Tensor | None = None) -> Tensor:
        """See the interface."""
        into_u, into_gate = self.enter.weight.chunk(2)
        y = self._scanned(functional.linear(x, into_u), None, reset)[row, place]  # (F, E)
        gate = functional.silu(functional.linear(x[row, place], into_gate))
        leave: Tensor = self.leave(y * gate)
        return leave

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """See the interface."""
        u, gate = self.enter(x).chunk(2, dim=-1)  # (P, E) each
        u, conv = conv_step(u, self.conv_weight, self.conv_bias, state=state.conv)
        delta, B, C = self._selected(u)
        y, scan = scan_step(
            u, delta, -self.A_log.exp(), B, C, self.D, gate,
            delta_bias=self.step_bias, state=state.scan,
        )  # fmt: skip
        return self.leave(y), MixerState(conv, scan)

    def block_weights(self, norm: Tensor) -> BlockWeights:
        """What `fused_block_step` takes; `norm` is the weight of the norm before this mixer."""
        return BlockWeights(
            norm, self.enter.weight, self.conv_weight, self.conv_bias, self.select.weight,
            self.step_size.weight, self.step_bias, self.A_log, self.D, self.leave.weight,
        )  # fmt: skip

    def initial_state(self, sequences: int) -> MixerState:
        """See the interface."""
        return MixerState(
            self.D.new_zeros(sequences, self.taps - 1, self.d_inner),
            self.D.new_zeros(sequences, self.d_state, self.d_inner),
        )

    def _scanned(self, u: Tensor, gate: Tensor | None, reset: Tensor | None) -> Tensor:
        """Convolve and scan; the caller needs `u` no longer."""
        u = causal_conv(u, self.conv_weight, self.conv_bias, reset=reset, overwrite_x=True)
        delta, B, C = self._selected(u)
        return selective_scan(
            u, delta, -self.A_log.exp(), B, C, self.D, gate,
            delta_bias=self.step_bias, reset=reset, overwrite_u=True,
        )  # fmt: skip

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, B, C = self.select(u).split([self.rank, self.d_state, self.d_state], dim=-1)
        return self.step_size(low), B, C


class Mamba2Mixer(Mixer):
    """Mamba-2 (arXiv 2405.21060, figure 6): one decay a head, gated norm before the way out."""

    def __init__(
        self,
        d_model: int,
        *,
        expand: int = 2,
        d_state: int = 16,
        taps: int = 4,
        d_head: int = 64,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.taps = expand * d_model, d_state, taps
        self.d_head = math.gcd(d_head, self.d_inner)
        self.heads = self.d_inner // self.d_head
        self.mixed = self.d_inner + 2 * d_state  # x, B and C pass the convolution
        self.enter = nn.Linear(d_model, self.d_inner + self.mixed + self.heads, bias=False)
        self.conv_weight, self.conv_bias = _conv_parameters(self.mixed, taps)
        self.step_bias = nn.Parameter(_step_bias(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.d_inner, eps=1e-5)
        self.leave = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        """See the interface."""
        y, gate = self._scanned(x, reset)
        return self._left(y, gate)

    def only_at(self, x: Tensor, row: Tensor, place: Tensor, reset: Tensor | None = None) -> Tensor:
        """See the interface."""
        y, gate = self._scanned(x, reset)
        return self._left(y[row, place], gate[row, place])

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """See the interface."""
        gate, mixed, delta = self._entered(x)
        mixed, conv = conv_step(mixed, self.conv_weight, self.conv_bias, state=state.conv)
        heads, B, C = self._headed(mixed)
        y, scan = ssd_step(
            heads, self._step(delta), -self.A_log.exp(), B, C, self.D, state=state.scan
        )
        return self._left(y, gate), MixerState(conv, scan)

    def initial_state(self, sequences: int) -> MixerState:
        """See the interface."""
        return MixerState(
            self.D.new_zeros(sequences, self.taps - 1, self.mixed),
            self.D.new_zeros(sequences, self.heads, self.d_state, self.d_head),
        )

    def _scanned(self, x: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        gate, mixed, delta = self._entered(x)
        mixed = causal_conv(mixed, self.conv_weight, self.conv_bias, reset=reset, overwrite_x=True)
        heads, B, C = self._headed(mixed)
        y, _ = ssd_scan(heads, self._step(delta), -self.A_log.exp(), B, C, self.D, reset=reset)
        return y, gate

    def _entered(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, mixed, delta = self.enter(x).split([self.d_inner, self.mixed, self.heads], dim=-1)
        return gate, mixed, delta

    def _headed(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = torch.split(mixed, [self.d_inner, self.d_state, self.d_state], dim=-1)
        return x.reshape(*x.shape[:-1], self.heads, self.d_head), B, C

    def _step(self, delta: Tensor) -> Tensor:
        return functional.softplus(delta + self.step_bias)

    def _left(self, y: Tensor, gate: Tensor) -> Tensor:
        leave: Tensor = self.leave(self.norm(y.flatten(-2) * functional.silu(gate)))
        return leave


def build_mixer(kind: MixerKind, d_model: int, *, expand: int, d_state: int, taps: int) -> Mixer:
    """The mixer that a configuration names."""
    if kind is MixerKind.MAMBA2:
        return Mamba2Mixer(d_model, expand=expand, d_state=d_state, taps=taps)
    return Mamba1Mixer(d_model, expand=expand, d_state=d_state, taps=taps)


def _conv_parameters(channels: int, taps: int) -> tuple[nn.Parameter, nn.Parameter]:
    bound = taps**-0.5
    weight = nn.Parameter(torch.empty(channels, taps).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.zeros(channels))


def _step_bias(channels: int) -> Tensor:
    """The inverse softplus of a log-uniform Δ."""
    step = torch.exp(torch.empty(channels).uniform_(math.log(STEP_MIN), math.log(STEP_MAX)))
    return step + torch.log(-torch.expm1(-step))
