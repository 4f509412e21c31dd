"""The state space dual of Mamba-2: the recurrence with one decay a head, as matrix products.

After Transformers are SSMs (arXiv 2405.21060, section 6), per head, with Δ_t = softplus(δ_t + b):

    S_t = exp(Δ_t A) S_{t-1} + Δ_t B_t x_tᵀ,   y_t = S_tᵀ C_t + D x_t

Within a chunk it is a masked attention, Y = (L ∘ C Bᵀ)(Δ X) with L_{ij} = Π_{j<k≤i} exp(Δ_k A);
from chunk to chunk only S goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64


def ssd_scan(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs, and the state after the last step.

    Shapes (P sequences, L steps, H heads, V channels a head, N states):
        x, returns: (P, L, H, V); step (Δ): (P, L, H); A, D: (H,); B, C: (P, L, N)
        state: (P, H, N, V); reset: (P, L) bool, true where a new flow begins
    """
    rows, length, heads, width = x.shape
    if state is None:
        state = x.new_zeros(rows, heads, B.shape[-1], width)
    outputs = []
    for begin in range(0, length, CHUNK):
        piece = slice(begin, begin + CHUNK)
        b, c = B[:, piece], C[:, piece]
        written = x[:, piece] * step[:, piece, :, None]  # (P, K, H, V)
        total = (step[:, piece] * A).cumsum(1).transpose(1, 2)  # (P, H, K), log decay since begin
        since = torch.exp(total)  # (P, H, K)
        gap = total[..., :, None] - total[..., None, :]  # (P, H, K, K)
        steps = gap.shape[-1]
        hidden = torch.ones(steps, steps, dtype=torch.bool, device=x.device).triu(1)
        if reset is not None:
            flow = reset[:, piece].cumsum(1)  # (P, K), flows begun in this chunk
            hidden = hidden | (flow[:, None, :, None] != flow[:, None, None, :])
            since = since.masked_fill((flow > 0)[:, None], 0)
        mask = torch.exp(gap.masked_fill(hidden, -torch.inf))  # (P, H, K, K)
        scores = torch.einsum("pin,pjn->pij", c, b)[:, None] * mask  # (P, H, K, K)
        near = torch.einsum("phij,pjhv->pihv", scores, written)
        far = torch.einsum("pin,phi,phnv->pihv", c, since, state)
        outputs.append(near + far)
        state = state * since[..., -1, None, None] + torch.einsum(
            "phj,pjn,pjhv->phnv", mask[:, :, -1], b, written
        )
    return torch.cat(outputs, dim=1) + x * D[:, None], state


def ssd_step(
    x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of each sequence; the old state is left alone.

    Shapes:
        x: (P, H, V); step: (P, H); B, C: (P, N); state: (P, H, N, V)
    """
    decay = torch.exp(step * A)[..., None, None]  # (P, H, 1, 1)
    state = state * decay + torch.einsum("pn,ph,phv->phnv", B, step, x)
    return torch.einsum("pn,phnv->phv", C, state) + x * D[:, None], state
