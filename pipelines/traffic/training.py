"""One training: network, tree, and how the two decide together."""

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
)
from feature_store.traffic.flows import FlowBatch
from pipelines.checkpoint import Checkpoint
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter, Silent
from pipelines.traffic.config import DecisionConfig, TrafficConfig
from pipelines.traffic.dataset import LabelledFlows, LabelledPart
from pipelines.traffic.opinions import Opinions, settle
from pipelines.traffic.pool import NO_KEYS, Pool, choose_pool, early_exit
from pipelines.traffic.split import Split
from pipelines.traffic.train_forest import train_forest
from pipelines.traffic.train_network import fine_tune, new_network, pretrain
from pipelines.traffic.train_tree import train_tree


@dataclass(frozen=True)
class Parts:
    """Labelled flows of the three parts, and what pre-training may see."""

    training: LabelledPart
    validation: LabelledPart
    test: LabelledPart
    unlabelled: FlowBatch

    @property
    def known(self) -> LabelledPart:
        """All flows that may be learned from: those of training and validation."""
        return self.training + self.validation

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
    pool: Pool | None = None,
) -> TrafficEdition:
    """An edition from the training and validation flows.

    The network trains on the training flows and stops by the validation flows. Cross-validation
    over both chooses the rounds of the tree and the pool, and the trees are then trained on both.

    Args:
        parts: the flows.
        classes: names of the labels.
        config: everything else; its `seed` counts where `seed` is None.
        device: where the network is trained.
        work_directory: where checkpoints go; None keeps none.
        key: names data and configuration; a checkpoint with another key is ignored.
        reporter: progress.
        group: the processes that train the network together; the first alone goes on to the trees
            and the decision, and the others' editions lack both.
        pool: what an earlier cross-validation chose; None chooses it here.

    Raises:
        ValueError: the flows were read with another number of packets than the configuration's.
    """
    _check_packets(parts, config.network.packets)
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
    undecided = TrafficEdition(classes, config.tier, network, None, Decision(), NO_KEYS)
    if not group.leads:
        return undecided
    torch.set_num_threads(config.threads)
    if not config.tree.enabled:
        decided = decide(undecided, parts.validation, config.decision)
        return decided.with_keys(parts.training.flows)
    if pool is None:
        pool = choose_pool(
            parts.known, classes, config, seed=seed, device=device, reporter=reporter
        )
    tree = train_tree(
        parts.known,
        None,
        config.tree.model_copy(update={"rounds": pool.rounds}),
        tier=config.tier,
        classes=len(classes),
        seed=seed,
        threads=config.threads,
        reporter=reporter,
    )
    forest = None
    if pool.decision.forest_share:
        forest = train_forest(
            parts.known,
            config.forest,
            tier=config.tier,
            classes=len(classes),
            seed=seed,
            threads=config.threads,
            reporter=reporter,
        )
    decided = replace(undecided, tree=tree.booster(), decision=pool.decision, forest=forest)
    return decided.with_keys(parts.training.flows)


def decide(
    edition: TrafficEdition, validation: LabelledPart, config: DecisionConfig
) -> TrafficEdition:
    """A network without a tree, its temperature and thresholds chosen on the validation flows."""
    if not len(validation.label):
        return edition
    said = log_softmax(edition.read_network(validation.flows)[0])
    nowhere = np.zeros(len(said), np.int64)
    decision = settle(Opinions(said, said, validation.label, nowhere), 1.0, config)
    decided = replace(edition, decision=decision)
    exit_at = early_exit([(decided, validation.flows)], config.early_agreement)
    return replace(edition, decision=decision.model_copy(update={"early_exit": exit_at}))


def _check_packets(parts: Parts, packets: int) -> None:
    read = parts.training.flows.size.shape[1]
    if read != packets:
        raise ValueError(
            f"the flows were read with {read} packets each and network.packets is {packets}: "
            f"read the captures with FlowSettings(kept_packets={packets})"
        )
