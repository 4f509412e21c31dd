"""The selective state space recurrence of Mamba-1, one function for every device.

After Mamba (arXiv 2312.00752, section 3), per channel d and state n, with Δ_t = softplus(δ_t + b):

    h_t[n, d] = exp(Δ_t[d] A[d, n]) h_{t-1}[n, d] + Δ_t[d] B_t[n] u_t[d]
    y_t[d]    = (Σ_n C_t[n] h_t[n, d] + D[d] u_t[d]) · silu(z_t[d])

Where `reset` is set at t, h_{t-1} counts as zero: many short flows then share one row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional

from models.traffic import cpu, cuda
from models.traffic.cpu.scan import fused_scan as cpu_scan

CHUNK = 16  # steps of one associative scan: 4 doublings, and 16 states held at a time


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None = ...,
    *, delta_bias: Tensor | None = ..., delta_softplus: bool = ..., h0: Tensor | None = ...,
    reset: Tensor | None = ..., overwrite_u: bool = ..., return_last_state: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None = ...,
    *, delta_bias: Tensor | None = ..., delta_softplus: bool = ..., h0: Tensor | None = ...,
    reset: Tensor | None = ..., overwrite_u: bool = ..., return_last_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
    overwrite_u: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a batch of sequences.

    Args:
        delta_bias: added to `delta` before the softplus.
        delta_softplus: without it, Δ = delta + delta_bias as it is.
        h0: the state before the first step; zero where it is left out.
        reset: true where a new flow begins.
        overwrite_u: where no gradients are wanted, the output may take the memory of `u`.
        return_last_state: also give the state after the last step.

    Shapes (P sequences, L steps, E channels, N states):
        u, delta, z: (P, L, E); A: (E, N), negative; B, C: (P, L, N); D, delta_bias: (E,)
        h0 and last state: (P, N, E); reset: (P, L) bool; returns: (P, L, E)
    """
    floats = (u, delta, A, B, C, D, z, delta_bias, h0)
    y, last = _fastest(*floats, overwrite_u=overwrite_u)(
        u, delta, A, B, C, D, z, delta_bias=delta_bias, delta_softplus=delta_softplus, h0=h0,
        reset=reset,
    )  # fmt: skip
    return (y, last) if return_last_state else y


def _fastest(
    u: Tensor, *others: Tensor | None, overwrite_u: bool
) -> Callable[..., tuple[Tensor, Tensor]]:
    if cpu.supports(u, *others):
        return partial(cpu_scan, overwrite_u=overwrite_u)
    if cuda.supports(u):
        from models.traffic.cuda.scan import fused_scan as cuda_scan  # imports Triton

        return cuda_scan
    return scan_chunked


def scan_chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` in torch alone, for any device and dtype; also gives the last state.

    The steps of a chunk are composed pairwise (Hillis and Steele 1986), and chunks follow each
    other: two tensors of (P, 16, N, E) are alive at a time, never (P, L, N, E).
    """
    step = discretise(delta, delta_bias, softplus=delta_softplus)
    negative = A.T  # (N, E)
    state = u.new_zeros(u.shape[0], *negative.shape) if h0 is None else h0
    outputs = []
    for begin in range(0, u.shape[1], CHUNK):
        piece = slice(begin, begin + CHUNK)
        dt = step[:, piece, None]  # (P, K, 1, E)
        decay = torch.exp(dt * negative)  # (P, K, N, E)
        if reset is not None:
            decay = decay.masked_fill(reset[:, piece, None, None], 0)
        states = dt * u[:, piece, None] * B[:, piece, :, None]  # (P, K, N, E)
        states = torch.cat([states[:, :1] + decay[:, :1] * state[:, None], states[:, 1:]], dim=1)
        reach = 1
        while reach < states.shape[1]:
            late = decay[:, reach:]
            states = torch.cat(
                [states[:, :reach], states[:, reach:] + late * states[:, :-reach]], dim=1
            )
            decay = torch.cat([decay[:, :reach], late * decay[:, :-reach]], dim=1)
            reach *= 2
        state = states[:, -1]
        outputs.append(torch.einsum("pkne,pkn->pke", states, C[:, piece]))
    y = torch.cat(outputs, dim=1) + u * D
    return (y if z is None else y * functional.silu(z)), state


def scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` step by step, as the equations say it; the twin of every fast path."""
    step = discretise(delta, delta_bias, softplus=delta_softplus)
    state = u.new_zeros(u.shape[0], A.shape[1], A.shape[0]) if h0 is None else h0
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(step[:, t, None] * A.T)  # (P, N, E)
        if reset is not None:
            decay = decay.masked_fill(reset[:, t, None, None], 0)
        state = decay * state + step[:, t, None] * B[:, t, :, None] * u[:, t, None]
        outputs.append((state * C[:, t, :, None]).sum(1) + D * u[:, t])
    y = torch.stack(outputs, dim=1)
    return (y if z is None else y * functional.silu(z)), state


def scan_step(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor,
    *, delta_bias: Tensor, state: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One step for each of P sequences: output and the new state; the old one is left alone.

    Shapes:
        u, delta, z: (P, E); B, C: (P, N); state: (P, N, E); returns: (P, E), (P, N, E)
    """
    if cpu.supports(u[:, None], delta, A, B, C, D, z, delta_bias, state):
        y, state = cpu_scan(
            u[:, None], delta[:, None], A, B[:, None], C[:, None], D, z[:, None],
            delta_bias=delta_bias, h0=state,
        )  # fmt: skip
        return y[:, 0], state
    dt = discretise(delta, delta_bias, softplus=True)
    state = torch.exp(dt[:, None] * A.T) * state + B[:, :, None] * (dt * u)[:, None]
    y = torch.einsum("pne,pn->pe", state, C) + D * u
    return y * functional.silu(z), state


def discretise(delta: Tensor, bias: Tensor | None, *, softplus: bool) -> Tensor:
    """Δ of the equations above."""
    shifted = delta if bias is None else delta + bias
    return functional.softplus(shifted) if softplus else shifted
