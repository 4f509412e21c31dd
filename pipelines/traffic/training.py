"""One training: network and tree on the training flows, their decision on the validation flows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feature_store.editions.traffic import (
    Decision,
    TrafficEdition,
    log_softmax,
    pooled,
    read_network,
    tree_log_probability,
)
from feature_store.error_memory import KeySpace
from feature_store.traffic.features import feature_table
from feature_store.traffic.flows import FlowBatch
from pipelines.checkpoint import Checkpoint
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter, Silent
from pipelines.traffic.config import DecisionConfig, TrafficConfig
from pipelines.traffic.dataset import LabelledFlows
from pipelines.traffic.split import Split
from pipelines.traffic.train_network import LabelledPart, fine_tune, new_network, pretrain
from pipelines.traffic.train_tree import train_tree

NETWORK_WEIGHTS = tuple(np.linspace(0, 1, 11).round(1).tolist())
TEMPERATURES = tuple(np.geomspace(0.4, 2.5, 25).tolist())
EARLY_CONFIDENCES = tuple(np.linspace(0.5, 1.0, 26).round(2).tolist())

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Parts:
    """Labelled flows of the three parts, and what pre-training may see."""

    training: LabelledPart
    validation: LabelledPart
    test: LabelledPart
    unlabelled: FlowBatch

    @classmethod
    def of(cls, data: LabelledFlows, split: Split) -> Parts:
        """Pre-training sees training flows and those without a label; never a held-out one."""

        def part(rows: NDArray[np.int64]) -> LabelledPart:
            label = data.label[rows].astype(np.int64)
            return LabelledPart(data.flows[rows], label, data.capture[rows])

        free = np.flatnonzero(data.label < 0)
        return cls(
            training=part(split.train),
            validation=part(split.validation),
            test=part(split.test),
            unlabelled=data.flows[np.concatenate([split.train, free])],
        )


def train(
    parts: Parts,
    classes: tuple[str, ...],
    config: TrafficConfig,
    *,
    seed: int | None = None,
    device: str = "cpu",
    work_directory: Path | None = None,
    key: str = "",
    reporter: Reporter | None = None,
    group: Group = ALONE,
) -> TrafficEdition:
    """An edition from the training flows; its decision is chosen on the validation flows.

    Args:
        parts: the flows.
        classes: names of the labels.
        config: everything else; its `seed` counts where `seed` is None.
        device: where the network is trained.
        work_directory: where checkpoints go; None keeps none.
        key: names data and configuration; a checkpoint with another key is ignored.
        reporter: progress.
        group: the processes that train the network together; the first alone goes on to the tree
            and the decision, and the others' editions lack both.
    """
    reporter = reporter or Silent()
    torch.set_num_threads(group.threads(config.threads))
    seed = config.seed if seed is None else seed

    def checkpoint(stage: str) -> Checkpoint | None:
        if work_directory is None:
            return None
        return Checkpoint(work_directory / f"{stage}.safetensors", key=f"{key}-{seed}")

    network = new_network(config, len(classes), seed=seed).to(device)
    if config.pretraining.enabled:
        pretrain(
            network,
            parts.unlabelled,
            config,
            seed=seed,
            device=device,
            checkpoint=checkpoint("pretraining"),
            reporter=reporter,
            group=group,
        )
    fine_tune(
        network,
        parts.training,
        parts.validation,
        config,
        seed=seed,
        device=device,
        checkpoint=checkpoint("fine_tuning"),
        reporter=reporter,
        group=group,
    )
    keys = KeySpace.fit(read_network(network, parts.training.flows, config.tier)[1])
    tree = None
    if not group.leads:
        return TrafficEdition(classes, config.tier, network, tree, Decision(), keys)
    torch.set_num_threads(config.threads)
    if config.tree.enabled:
        tree = train_tree(
            parts.training,
            parts.validation,
            config.tree,
            tier=config.tier,
            classes=len(classes),
            seed=seed,
            threads=config.threads,
            reporter=reporter,
        )
    undecided = TrafficEdition(classes, config.tier, network, tree, Decision(), keys)
    decision = decide(undecided, parts.validation, config.decision)
    return replace(undecided, decision=decision)


def decide(edition: TrafficEdition, validation: LabelledPart, config: DecisionConfig) -> Decision:
    """Weight, temperature and thresholds from the validation flows.

    Weight and temperature minimise the log loss; `unknown_below` rejects a set share; `early_exit`
    is the least confidence at which verdicts before the last packet agree with the last one.
    """
    if not len(validation.flows):
        return Decision()
    log_network = log_softmax(edition.read_network(validation.flows)[0])
    log_tree, weights = log_network, (1.0,)
    if edition.forest is not None:
        log_tree = tree_log_probability(
            edition.forest, feature_table(validation.flows, edition.tier)[0]
        )
        weights = NETWORK_WEIGHTS
    rows = np.arange(len(validation.label))

    def log_loss(decision: Decision) -> float:
        probability = pooled(log_network, log_tree, decision)[rows, validation.label]
        return float(-np.log(np.maximum(probability, 1e-12)).mean())

    best = min(
        (
            Decision(network_weight=weight, temperature=temperature)
            for weight in weights
            for temperature in TEMPERATURES
        ),
        key=log_loss,
    )
    confidence = pooled(log_network, log_tree, best).max(axis=1)
    best = best.model_copy(
        update={"unknown_below": float(np.quantile(confidence, config.rejected_share))}
    )
    return best.model_copy(
        update={"early_exit": _early_exit(edition, best, validation, config.early_agreement)}
    )


def _early_exit(
    edition: TrafficEdition, decision: Decision, validation: LabelledPart, agreement: float
) -> float:
    """The least confidence at which a running flow's first sure verdict is its last one's."""
    decided = replace(edition, decision=decision)
    flows = validation.flows
    final = decided.classify(flows).probability.argmax(axis=1)
    kept = flows.flow["kept"]
    confidence = np.zeros((len(flows), decided.packets), np.float32)
    verdict = np.tile(final[:, None], decided.packets)
    for place in range(decided.packets):
        running = np.flatnonzero(kept > place + 1)
        if len(running):
            found = decided.classify(flows[running].cut(place + 1)).probability
            confidence[running, place] = found.max(axis=1)
            verdict[running, place] = found.argmax(axis=1)
    for threshold in EARLY_CONFIDENCES:
        sure = confidence >= threshold
        early = sure.any(axis=1)
        first = sure.argmax(axis=1)
        if not early.any():
            break
        same = verdict[np.arange(len(flows)), first] == final
        if same[early].mean() >= agreement:
            return float(threshold)
    return 1.0
