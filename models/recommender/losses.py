"""The towers' loss: a softmax over the catalogue for every user, fused for a CPU.

For user u with unit vector u, target weights t_ui ≥ 0 and candidates S (without what was in the
history that the tower saw):

    L = 1/B Σ_u [ (Σ_i t_ui) log Σ_{i in S} exp(ℓ_ui) − Σ_i t_ui ℓ_ui ]
    ℓ_ui = u·z_i / τ + b_i + q_i

With S the whole catalogue and q = 0 it is the multinomial likelihood. With S the batch's targets
and a uniform sample of the rest, q_i corrects for how an item came into S: it is −log of the
probability that i is in S (logQ; a target is there for certain, so its q is 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Targets:
    """What the users of a batch went on to want.

    Shapes:
        users, items: (T,) int64, position in the batch and column among the candidates.
        weights: (T,) float32.
        seen_users, seen_items: (S,) int64 pairs that may not compete: the visible history.
    """

    users: Tensor
    items: Tensor
    weights: Tensor
    seen_users: Tensor
    seen_items: Tensor


def softmax_loss(
    users: Tensor, items: Tensor, bias: Tensor, temperature: Tensor, targets: Targets
) -> Tensor:
    """The equation of the module, with its gradient computed in the forward pass.

    One (B, n) buffer is all that is kept: the logits become probabilities and then the gradient in
    place, where autograd would keep three of them.

    Shapes:
        users: (B, d); items: (n, d) unit candidates; bias: (n,) b + q; temperature: scalar;
        returns: scalar
    """
    fused: Callable[..., Tensor] = _FusedSoftmax.apply
    return fused(users, items, bias, temperature, targets)


def softmax_loss_reference(
    users: Tensor, items: Tensor, bias: Tensor, temperature: Tensor, targets: Targets
) -> Tensor:
    """The obvious twin, differentiated by autograd."""
    logits = users @ items.T / temperature + bias
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[targets.seen_users, targets.seen_items] = True
    log_probabilities = functional.log_softmax(logits.masked_fill(seen, -torch.inf), dim=1)
    chosen = log_probabilities[targets.users, targets.items]
    return -(targets.weights * chosen).sum() / len(users)


class _FusedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, bias: Tensor, temperature: Tensor, targets: Targets
    ) -> Tensor:
        scale = 1.0 / float(temperature)
        batch = len(users)
        logits = torch.addmm(bias, users, items.T, alpha=scale)  # (B, n)
        logits[targets.seen_users, targets.seen_items] = -torch.inf
        wanted = logits[targets.users, targets.items]  # (T,)
        mass = torch.zeros(batch).index_add_(0, targets.users, targets.weights)  # (B,)
        largest = logits.amax(1, keepdim=True)
        exponent = logits.sub_(largest).exp_()
        total = exponent.sum(1, keepdim=True)
        normaliser = (total.log() + largest).squeeze(1)  # (B,)
        loss = ((mass * normaliser).sum() - (targets.weights * wanted).sum()) / batch

        gradient = exponent.mul_(mass[:, None] / total)  # (B, n) dL/dℓ, times B
        gradient.index_put_((targets.users, targets.items), -targets.weights, accumulate=True)
        to_users = (gradient @ items).mul_(scale / batch)
        to_items = (gradient.T @ users).mul_(scale / batch)
        to_temperature = -(to_users * users).sum() * scale
        ctx.save_for_backward(to_users, to_items, gradient.sum(0) / batch, to_temperature)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        to_users, to_items, to_bias, to_temperature = ctx.saved_tensors
        return (
            upstream * to_users,
            upstream * to_items,
            upstream * to_bias,
            upstream * to_temperature,
            None,
        )
