"""A training run that was killed goes on where it stopped, from files without pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


class Checkpoint:
    """Weights, optimiser state and finished epochs of one training stage, in one file.

    The file is replaced atomically after an epoch. It belongs to one configuration and one data
    set: `key` names them, and a checkpoint with another key is ignored.
    """

    def __init__(self, path: Path, *, key: str) -> None:
        self._path = path
        self._key = key

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, epoch: int) -> None:
        """Remember that `epoch` epochs are done."""
        tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        metadata = {"key": self._key, "epoch": json.dumps(epoch)}
        contiguous = {name: value.contiguous().clone() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata=metadata)
        temporary.replace(self._path)

    def resume(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore what `save` kept and return the number of finished epochs; 0 for a new run."""
        if not self._path.exists():
            return 0
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises types of its own for a torn file
            if "safetensor" not in type(error).__name__.lower():
                raise
            return 0
        prefix = "module."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, field = name.split(".", 2)
                state.setdefault(int(index), {})[field] = value
        packed = optimizer.state_dict()
        optimizer.load_state_dict({"state": state, "param_groups": packed["param_groups"]})
        return int(json.loads(metadata["epoch"]))

    def discard(self) -> None:
        """Forget the run: its result is kept elsewhere now."""
        self._path.unlink(missing_ok=True)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The randomness of one epoch, the same whether the run was interrupted before it or not."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
