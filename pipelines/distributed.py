"""Training in several processes that torchrun started, as if it were one.

Every process holds all data and all weights and draws the same batches. It computes the gradient of
its share of a batch; the shares are summed, and all take the same step. The first process alone
reports, saves and publishes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.shared_sums import SharedSums


@dataclass(frozen=True)
class Group:
    """The processes of one training; this one is number `rank` of `size`."""

    rank: int = 0
    size: int = 1
    shared: SharedSums | None = None  # where all are on one machine

    @property
    def leads(self) -> bool:
        """Whether this process reports, saves and publishes."""
        return self.rank == 0

    def threads(self, wanted: int) -> int:
        """This process's share of the threads of a machine."""
        return max(1, wanted // self.size)

    def share(self, n: int) -> Tensor:
        """Places of this process's rows among `n`; all of them where there are too few to share."""
        if n < self.size:
            return torch.arange(n)
        return torch.arange(self.rank, n, self.size)

    def agree(self, module: nn.Module) -> None:
        """Give every process the first one's weights: factorisations differ in their last bits."""
        if self.size == 1:
            return
        for each in module.state_dict().values():
            dist.broadcast(each, src=0)

    def own_draws(self, generator: torch.Generator) -> torch.Generator:
        """For draws of which each process makes another number; all take one from `generator`."""
        if self.size == 1:
            return generator
        seed = int(torch.randint(2**62, (), generator=generator))
        return torch.Generator().manual_seed(seed + self.rank)

    def copies(self, n: int) -> int:
        """How many processes compute each of `n` rows: see `share`."""
        return self.size if n < self.size else 1

    def of_whole(
        self, loss: Tensor, weight: Tensor | float, *, whole: Tensor | float | None = None
    ) -> Tensor:
        """The part of a batch's mean loss that a share's mean is, the shares weighing `weight` and
        together `whole`: where every process knows that, none has to ask the others."""
        if self.size == 1:
            return loss
        if whole is not None:
            return loss * (weight / whole)
        mine = torch.as_tensor(weight, dtype=loss.dtype, device=loss.device).detach()
        return loss * (mine / self.sum(mine.clone()))

    def sum_gradients(self, module: nn.Module) -> None:
        """Make every process's gradients the sum of all."""
        if self.size == 1:
            return
        parameters = [each for each in module.parameters() if each.requires_grad]
        for each in parameters:
            if each.grad is None:  # this share did not reach it; another may have
                each.grad = torch.zeros_like(each)
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = self.sum(torch.cat([each.reshape(-1) for each in gradients]))
        sizes = [each.numel() for each in gradients]
        for gradient, part in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """`values`, made the sum of every process's."""
        if self.shared is not None and values.device.type == "cpu":
            self.shared.add(values)
        elif self.size > 1:
            dist.all_reduce(values)
        return values


ALONE = Group()


@contextmanager
def process_group(device: str = "cpu") -> Iterator[Group]:
    """The group that torchrun made this process part of; `ALONE` without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        with _shared_sums(size) as shared:
            yield Group(rank=dist.get_rank(), size=size, shared=shared)
    finally:
        dist.destroy_process_group()


@contextmanager
def _shared_sums(size: int) -> Iterator[SharedSums | None]:
    on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(size)
    if not on_one_machine or dist.get_backend() != "gloo" or sys.platform != "linux":
        yield None
        return
    sums = SharedSums.of_process_group()
    try:
        yield sums
    finally:
        sums.close()
