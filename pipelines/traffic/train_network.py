"""Pre-trains the sequence network on flows without labels, then fine-tunes it on those with."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from feature_store.editions.traffic import build_network, flow_tensors, read_network
from feature_store.traffic.features import Tier
from feature_store.traffic.flows import HEADER_FIELDS, FlowBatch
from models.traffic.classifier import TrafficClassifier
from models.traffic.embedding import EmbeddingConfig
from models.traffic.layer_decay import parameter_groups
from models.traffic.masked_autoencoder import MaskedAutoencoder
from pipelines.checkpoint import Checkpoint, epoch_generator
from pipelines.distributed import ALONE, Group
from pipelines.gradients import Gradients
from pipelines.progress import Reporter
from pipelines.traffic.augmentation import augmented
from pipelines.traffic.config import NetworkConfig, PretrainingConfig, TrafficConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.metrics import macro_f1

LARGEST_GRADIENT = 1.0
WARM_UP_SHARE = 0.1
FINAL_RATE = 0.02


def embedding_config(config: NetworkConfig, tier: Tier) -> EmbeddingConfig:
    """What the network's embedding reads at a tier."""
    return EmbeddingConfig(
        packets=config.packets,
        fields=0 if tier is Tier.T0 else len(HEADER_FIELDS),
        byte_packets=config.byte_packets if tier is Tier.T2 else 0,
        positions=config.positions,
    )


def pretrain(
    network: TrafficClassifier,
    flows: FlowBatch,
    config: TrafficConfig,
    *,
    seed: int,
    device: str,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
    group: Group = ALONE,
) -> None:
    """Train the network's embedding and encoder to rebuild what is hidden of flows."""
    chosen: PretrainingConfig = config.pretraining
    torch.manual_seed(seed)
    model = MaskedAutoencoder(network.embedding, network.encoder, chosen.autoencoder).to(device)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        betas=(0.9, 0.95),
        fused=True,
    )
    gradients = Gradients(model)
    tensors = flow_tensors(flows, config.tier)
    schedule = _Schedule(optimizer, len(flows), chosen.batch_size, chosen.epochs)
    done = checkpoint.resume(model, optimizer) if checkpoint else 0
    with reporter.bar("pre-training", chosen.epochs) as bar:
        bar.advance(done)
        for epoch in range(done, chosen.epochs):
            generator = epoch_generator(seed, epoch)
            torch.manual_seed((seed + group.rank) * 1_000_003 + epoch)  # drop path, masks
            losses = []
            for rows in _batches(len(flows), chosen.batch_size, generator):
                batch = augmented(tensors.gather(rows), config.augmentation, generator)
                mine = group.share(len(rows))
                whole = group.copies(len(rows)) * len(rows)
                loss = model(batch.gather(mine).to(device))
                loss = group.of_whole(loss, len(mine), whole=whole)
                losses.append(_step(loss, gradients, optimizer, schedule, group))
            if checkpoint and group.leads:
                checkpoint.save(model, optimizer, epoch=epoch + 1)
            bar.advance(1, f"loss {_mean(losses, group):.4f}")


def fine_tune(
    network: TrafficClassifier,
    training: LabelledPart,
    validation: LabelledPart,
    config: TrafficConfig,
    *,
    seed: int,
    device: str,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
    group: Group = ALONE,
) -> None:
    """Train on labels; the network ends with the weights of its best validation macro F1.

    Without a validation flow nothing stops it, and it ends with its last weights.
    """
    chosen = config.network
    if chosen.frozen:
        for parameter in [*network.embedding.parameters(), *network.encoder.parameters()]:
            parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        parameter_groups(
            network,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            layer_decay=chosen.layer_decay,
        ),
        # One pass over the weights: parameter by parameter they took a tenth of a step.
        fused=True,
    )
    gradients = Gradients(network)
    tensors = flow_tensors(training.flows, config.tier)
    labels = torch.from_numpy(training.label.astype(np.int64))
    weights = class_weights(labels, network.head.out_features, chosen.class_weight).to(device)
    schedule = _Schedule(optimizer, len(labels), chosen.batch_size, chosen.epochs)
    tracked = _Best(network)
    done = checkpoint.resume(tracked, optimizer) if checkpoint else 0
    schedule.step_number = done * schedule.steps_an_epoch
    with reporter.bar("fine-tuning", chosen.epochs) as bar:
        bar.advance(done)
        for epoch in range(done, chosen.epochs):
            if epoch - int(tracked.best_epoch) > chosen.patience:
                reporter.say(f"fine-tuning: no better after epoch {int(tracked.best_epoch)}")
                break
            generator = epoch_generator(seed, epoch)
            torch.manual_seed((seed + group.rank) * 1_000_003 + epoch)  # drop path
            network.train()
            losses = []
            for rows in _batches(len(labels), chosen.batch_size, generator):
                batch = augmented(tensors.gather(rows), config.augmentation, generator)
                mine = group.share(len(rows))
                label = labels[rows[mine]].to(device)
                loss = functional.cross_entropy(
                    network(batch.gather(mine).to(device)).logits,
                    label,
                    weight=weights,
                    label_smoothing=chosen.label_smoothing,
                )
                whole = group.copies(len(rows)) * weights[labels[rows].to(device)].sum()
                loss = group.of_whole(loss, weights[label].sum(), whole=whole)
                losses.append(_step(loss, gradients, optimizer, schedule, group))
            network.eval()
            found = _verdicts(network, validation.flows, config.tier, group)
            score = macro_f1(validation.label, found, classes=network.head.out_features)
            tracked.offer(score if len(found) else float(epoch), epoch + 1)
            if checkpoint and group.leads:
                checkpoint.save(tracked, optimizer, epoch=epoch + 1)
            note = f", macro F1 {score:.3f}" if len(found) else ""
            bar.advance(1, f"loss {_mean(losses, group):.3f}{note}")
    tracked.restore()
    network.eval()


def new_network(config: TrafficConfig, classes: int, *, seed: int) -> TrafficClassifier:
    """A network with fresh weights, the same for the same seed."""
    torch.manual_seed(seed)
    return build_network(
        embedding_config(config.network, config.tier), config.network.encoder, classes
    )


def class_weights(labels: Tensor, classes: int, power: float) -> Tensor:
    """(classes,) n^-power, scaled so that the mean flow weighs 1."""
    counts = torch.bincount(labels, minlength=classes).float()
    weights = counts.clamp(min=1) ** -power
    return weights * counts.sum() / (weights * counts).sum()


class _Best(torch.nn.Module):
    """A network beside the best weights that it had; a checkpoint holds both."""

    def __init__(self, network: TrafficClassifier) -> None:
        super().__init__()
        self.network = network
        self.best_epoch: Tensor
        self.best_score: Tensor
        self.register_buffer("best_epoch", torch.tensor(0))
        self.register_buffer("best_score", torch.tensor(-1.0))
        self._names = {name: f"best_{name.replace('.', '__')}" for name in network.state_dict()}
        for name, value in network.state_dict().items():
            self.register_buffer(self._names[name], value.clone())

    def offer(self, score: float, epoch: int) -> None:
        """Remember the present weights if their score is the best."""
        if score <= float(self.best_score):
            return
        self.best_epoch.fill_(epoch)
        self.best_score.fill_(score)
        for name, value in self.network.state_dict().items():
            self.get_buffer(self._names[name]).copy_(value)

    def restore(self) -> None:
        """Give the network its best weights."""
        self.network.load_state_dict(
            {name: self.get_buffer(best) for name, best in self._names.items()}
        )


class _Schedule:
    """A linear warm-up, then a cosine to `FINAL_RATE` of each group's own rate."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, rows: int, batch_size: int, epochs: int
    ) -> None:
        self._optimizer = optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.steps_an_epoch = math.ceil(rows / batch_size)
        self._total = max(self.steps_an_epoch * epochs, 1)
        self.step_number = 0

    def advance(self) -> None:
        """Set the rates of the next step."""
        self.step_number += 1
        warm_up = max(WARM_UP_SHARE * self._total, 1)
        if self.step_number < warm_up:
            share = self.step_number / warm_up
        else:
            done = (self.step_number - warm_up) / max(self._total - warm_up, 1)
            share = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1)))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share


def _batches(rows: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    shuffled = torch.randperm(rows, generator=generator)
    return torch.split(shuffled, batch_size)


def _step(
    loss: Tensor,
    gradients: Gradients,
    optimizer: torch.optim.Optimizer,
    schedule: _Schedule,
    group: Group,
) -> float:
    schedule.advance()
    gradients.zero()
    loss.backward()  # type: ignore[no-untyped-call]
    group.sum(gradients.flat)
    gradients.clip(LARGEST_GRADIENT)
    optimizer.step()
    return float(loss.detach())


def _mean(losses: list[float], group: Group) -> float:
    """Of an epoch's batches, from every process's shares: they meet once for it, not every step."""
    return float(group.sum(torch.tensor(losses, dtype=torch.float64)).mean())


def _verdicts(
    network: TrafficClassifier, flows: FlowBatch, tier: Tier, group: Group
) -> NDArray[np.int64]:
    """(n,) the class of each flow, each process reading its share."""
    mine = np.arange(group.rank, len(flows), group.size)
    found = torch.zeros(len(flows), dtype=torch.int64)
    logits, _ = read_network(network, flows[mine], tier)
    found[mine] = torch.from_numpy(logits.argmax(axis=1))
    return group.sum(found).numpy()
