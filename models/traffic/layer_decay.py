"""Learning rates that fall with depth, for fine-tuning what was pre-trained (arXiv 2106.08254)."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.traffic.classifier import TrafficClassifier


def parameter_groups(
    model: TrafficClassifier, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimiser: the head at `learning_rate`, each layer below it at `layer_decay`
    times the one above, the embedding lowest.

    Vectors, positions, the class token and the recurrence's own parameters have no weight decay.
    """
    layers = len(model.encoder.blocks)
    depth_of: dict[int, int] = {}
    for depth, block in enumerate(model.encoder.blocks, start=1):
        depth_of |= {id(parameter): depth for parameter in block.parameters()}
    top = [*model.head.parameters(), *model.encoder.norm.parameters()]
    depth_of |= {id(parameter): layers + 1 for parameter in top}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.dim() > 1 and not name.endswith(("A_log", "position", "conv_weight"))
        key = depth_of.get(id(parameter), 0), decays
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay ** (layers + 1 - depth),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (depth, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
