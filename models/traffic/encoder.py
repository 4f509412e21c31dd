"""The encoder: tokens, then a class token that has seen all of them.

After NetMamba (arXiv 2405.11449): pre-norm residual blocks, x ← x + DropPath(mixer(RMSNorm(x))),
and a final RMSNorm. The class token *trails*, because every token sees only those before it. So the
verdict after any packet is one step of the class token on a copy of the state (`peek`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.allocator import keep_buffers
from models.traffic import cpu
from models.traffic.cpu.norm import fused_norm
from models.traffic.cpu.step import fused_block_step
from models.traffic.mixers import Mamba1Mixer, MixerKind, MixerState, build_mixer

NORM_EPS = 1e-5
# Channels times tokens that pass the blocks together, a thread, where no gradient is wanted: what
# one operation leaves for the next then is in the cache.
AT_ONCE = 500_000
KEPT_BYTES = 32 << 20  # the tensors of a layer of so many
PACKED_BELOW = 0.8  # share of tokens that are there; above, moving them costs what it saves


class EncoderConfig(BaseModel):
    """The encoder's shape. The defaults are the size that ships; NetMamba has 256 and 4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: int = Field(128, ge=1)
    layers: int = Field(3, ge=1)
    mixer: MixerKind = MixerKind.MAMBA1
    expand: int = Field(2, ge=1)
    d_state: int = Field(16, ge=1)
    taps: int = Field(4, ge=1)
    drop_path: float = Field(0.1, ge=0, lt=1)


class EncoderState(NamedTuple):
    """What the encoder remembers of P flows, a mixer's state for each layer; rows are flows."""

    layers: tuple[MixerState, ...]

    def gather(self, rows: Tensor) -> EncoderState:
        """The states of some flows, copied."""
        return EncoderState(tuple(layer.gather(rows) for layer in self.layers))

    def put(self, rows: Tensor, states: EncoderState) -> None:
        """Overwrite the states of some flows."""
        for mine, theirs in zip(self.layers, states.layers, strict=True):
            mine.conv[rows] = theirs.conv
            mine.scan[rows] = theirs.scan

    @staticmethod
    def stack(states: list[EncoderState]) -> EncoderState:
        """The rows of several states, behind each other."""
        by_layer = zip(*(state.layers for state in states), strict=True)
        return EncoderState(
            tuple(MixerState(*map(torch.cat, zip(*layer, strict=True))) for layer in by_layer)
        )


class Encoded(NamedTuple):
    """What the encoder says.

    Shapes:
        tokens: (P, L, d_model), every token's output; garbage behind a flow's end
        flow: (P, d_model), the class token's output
    """

    tokens: Tensor
    flow: Tensor


class TrafficEncoder(nn.Module):
    """Tokens of flows in, hidden representations out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        depth = max(config.layers - 1, 1)
        blocks = [
            Block(config, drop_path=config.drop_path * layer / depth)
            for layer in range(config.layers)
        ]
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.norm = nn.RMSNorm(config.d_model, eps=NORM_EPS)
        self.class_token = nn.Parameter(torch.empty(config.d_model).normal_(std=0.02))

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Encoded:
        """Encode whole flows.

        The class token stands right behind a flow's last token, so that what is behind it does
        not matter: a short flow has the same output in any batch.

        Shapes:
            tokens: (P, L, d_model); lengths: (P,) integers, 0 ≤ lengths ≤ L, L where left out
        """
        x, ends = self._with_class_token(tokens, lengths)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Encoded(x[:, :-1], x[torch.arange(len(x), device=x.device), ends])

    def flow(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(P, d_model): `forward(tokens, lengths).flow`, without what only the tokens need.

        On a processor flows of different lengths stand behind each other in one row, with a reset
        at each one's start: nothing is computed behind a flow's end.
        """
        most = len(tokens)
        if tokens.device.type == "cpu" and not torch.is_grad_enabled():
            flow = self.config.expand * self.config.d_model * (tokens.shape[1] + 1)
            most = max(AT_ONCE * torch.get_num_threads() // flow, 1)
        if len(tokens) <= most:
            return self._flow(tokens, lengths)
        keep_buffers(KEPT_BYTES)
        parts = [slice(start, start + most) for start in range(0, len(tokens), most)]
        return torch.cat(
            [self._flow(tokens[each], None if lengths is None else lengths[each]) for each in parts]
        )

    def _flow(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        x, ends = self._with_class_token(tokens, lengths)
        row, reset = torch.arange(len(x), device=x.device), None
        if x.device.type == "cpu" and int((ends + 1).sum()) < PACKED_BELOW * x[..., 0].numel():
            place = torch.arange(x.shape[1])
            there = place <= ends[:, None]  # (P, L + 1)
            reset = (place == 0).expand_as(there)[there][None]  # (1, S)
            x = x[there][None]  # (1, S, d_model)
            row, ends = torch.zeros_like(row), (ends + 1).cumsum(0) - 1
        for block in self.blocks[:-1]:
            x = block(x, reset)
        hidden: Tensor = self.norm(self.blocks[-1].only_at(x, row, ends, reset))
        return hidden

    def _with_class_token(self, tokens: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The class token at each flow's end: (P, L + 1, d_model), and where, (P,) int64."""
        flows, length, _ = tokens.shape
        x = torch.cat([tokens, self.class_token.expand(flows, 1, -1)], dim=1)  # (P, L + 1, d)
        rows = torch.arange(flows, device=tokens.device)
        ends = torch.full_like(rows, length) if lengths is None else lengths.to(rows.dtype)
        if lengths is not None:
            place = torch.arange(length + 1, device=tokens.device)
            x = torch.where((place == ends[:, None])[..., None], self.class_token, x)
        return x, ends

    def initial_state(self, flows: int) -> EncoderState:
        """The state before a flow's first token."""
        return EncoderState(tuple(block.mixer.initial_state(flows) for block in self.blocks))

    def step(self, token: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """The next token of each flow: its output and the new state; the old one is left alone.

        Shapes:
            token, returns: (P, d_model)
        """
        states = []
        for block, before in zip(self.blocks, state.layers, strict=True):
            token, after = block.step(token, before)
            states.append(after)
        return self.norm(token), EncoderState(tuple(states))

    def peek(self, state: EncoderState) -> Tensor:
        """(P, d_model): what the class token says now, as if each flow ended here."""
        flows = state.layers[0].conv.shape[0]
        hidden, _ = self.step(self.class_token.expand(flows, -1), state)
        return hidden


class Block(nn.Module):
    """x + DropPath(mixer(RMSNorm(x)))."""

    def __init__(self, config: EncoderConfig, *, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=NORM_EPS)
        self.mixer = build_mixer(
            config.mixer, config.d_model,
            expand=config.expand, d_state=config.d_state, taps=config.taps,
        )  # fmt: skip
        self.drop_path = drop_path

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        """(P, L, d_model) → (P, L, d_model)."""
        mixed: Tensor = self.mixer(self._normed(x), reset)
        if not self.training:
            return x + mixed
        if reset is None:
            return x + mixed * self._kept(len(x), x.device)[:, None, None]
        flow = reset.flatten().cumsum(0) - 1  # (P · L,), which flow each token is of
        kept = self._kept(int(flow[-1]) + 1, x.device)[flow]
        return x + mixed * kept.view(*x.shape[:2], 1)

    def only_at(self, x: Tensor, row: Tensor, place: Tensor, reset: Tensor | None) -> Tensor:
        """(F, d_model): `forward(x, reset)` at one place of each flow."""
        mixed: Tensor = self.mixer.only_at(self._normed(x), row, place, reset)
        return x[row, place] + mixed * self._kept(len(row), x.device)[:, None]

    def _normed(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and cpu.supports(x):
            return fused_norm(x, self.norm.weight, eps=NORM_EPS)
        normed: Tensor = self.norm(x)
        return normed

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """(P, d_model) → (P, d_model) and the new state."""
        if (
            isinstance(self.mixer, Mamba1Mixer)
            and not torch.is_grad_enabled()
            and cpu.supports(x)
            and cpu.supports(state.scan)
        ):
            weights = self.mixer.block_weights(self.norm.weight)
            x, *after = fused_block_step(x, weights, *state, eps=NORM_EPS)
            return x, MixerState(*after)
        return self.step_by_parts(x, state)

    def step_by_parts(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """`step`, one operation after the other, for any mixer, device and dtype."""
        mixed, state = self.mixer.step(self.norm(x), state)
        return x + mixed, state

    def _kept(self, flows: int, device: torch.device) -> Tensor:
        """(flows,): 0 where this block is left out while training, else what makes up for it
        (stochastic depth, arXiv 1603.09382)."""
        if not self.training or self.drop_path == 0:
            return torch.ones(flows, device=device)
        kept = torch.rand(flows, device=device) >= self.drop_path
        return kept / (1 - self.drop_path)
