"""A module's gradients as one tensor."""

from __future__ import annotations

import torch
from torch import nn


class Gradients:
    """Views of `flat` are the gradients of the parameters that are trained, one behind the other:
    what is done to all of them is one operation, and processes sum them without a copy.

    Parameters that a backward pass does not reach have a gradient of zero, not None; those that are
    not trained have none, whatever an earlier training left them with.

    Attributes:
        flat: (n,) with the parameters' dtype.
    """

    def __init__(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.grad = None
        trained = [each for each in module.parameters() if each.requires_grad]
        sizes = [each.numel() for each in trained]
        self.flat = trained[0].new_zeros(sum(sizes))
        for parameter, part in zip(trained, torch.split(self.flat, sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def zero(self) -> None:
        """Forget them; the next backward pass adds to nothing."""
        self.flat.zero_()

    def clip(self, largest: float) -> None:
        """Shrink them to an Euclidean norm of at most `largest`."""
        self.flat.mul_((largest / torch.linalg.vector_norm(self.flat)).clamp_(max=1.0))
