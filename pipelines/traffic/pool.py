"""How network and trees are pooled, chosen by cross-validation over blocks of recordings.

The part of the recordings that follows training resembles it more than a later day does, and there
the network looks better than it is. So each block of recordings is classified by models that never
saw one of its conversations.

- Boosted trees and forest are rivals of one kind, and which is ahead changes with the day: each has
  half the say. A share that is fitted to three blocks is fitted to their noise, and equal weights
  are hard to beat (Clemen, 1989; Smith and Wallis, 2009); one that is alone better beyond noise
  has all of it.
- The network has a say only where its gain over the trees is beyond noise.

What the models say of their blocks, and what is chosen of it, is in `opinions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feature_store.editions.random_forest import RandomForest
from feature_store.editions.traffic import (
    Decision,
    TrafficEdition,
    forest_log_probability,
    log_softmax,
    tree_log_probability,
    trees_pooled,
)
from feature_store.error_memory import KeySpace
from feature_store.traffic.features import feature_table
from feature_store.traffic.flows import FlowBatch
from models.traffic.classifier import TrafficClassifier
from pipelines.progress import Reporter
from pipelines.traffic.config import TrafficConfig, TreeConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.opinions import (
    FOREST_SHARES,
    Opinions,
    WeightChoice,
    choose_forest_share,
    choose_weight,
    f1_of_trees,
    joined,
    settle,
)
from pipelines.traffic.split import blocks, recordings
from pipelines.traffic.train_forest import train_forest
from pipelines.traffic.train_network import fine_tune, new_network
from pipelines.traffic.train_tree import train_tree

EARLY_CONFIDENCES = tuple(np.linspace(0.5, 1.0, 26).round(2).tolist())
SMOOTHED_ROUNDS = 15
EARLY_FLOWS = 400  # of each block, for the threshold of early verdicts

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """What cross-validation chose.

    Attributes:
        decision: weights of the parts, temperature and thresholds.
        rounds: of the boosted trees.
        network_gain, standard_error: of macro F1 over the trees alone, at the best weight that was
            tried, in the blocks that were tried.
        forest_gain: of macro F1 over the boosted trees alone, at the share that was chosen.
    """

    decision: Decision
    rounds: int
    network_gain: float = 0.0
    standard_error: float = 0.0
    forest_gain: float = 0.0

    @classmethod
    def of(cls, edition: TrafficEdition, config: TreeConfig) -> Pool | None:
        """What an edition with trees of a configuration was made by; None without trees."""
        if edition.tree is None:
            return None
        trees = len(edition.classes) * config.members
        return cls(edition.decision, edition.tree.num_trees() // trees)


@dataclass(frozen=True)
class _Block:
    """A block of recordings that was held out, and the trees that have not seen it.

    Shapes:
        log_boosted, log_forest: (n, C) what they say; None without a forest
    """

    training: LabelledPart
    held: LabelledPart
    recording: IntArray
    tree: lightgbm.Booster
    forest: RandomForest | None
    log_boosted: FloatArray
    log_forest: FloatArray | None

    def log_trees(self, share: float) -> FloatArray:
        """(n, C) what both kinds of trees say together."""
        if self.log_forest is None:
            return self.log_boosted
        return trees_pooled(self.log_boosted, self.log_forest, share)


def choose_pool(
    known: LabelledPart,
    classes: tuple[str, ...],
    config: TrafficConfig,
    *,
    seed: int,
    device: str,
    reporter: Reporter,
) -> Pool:
    """Cross-validate the trees, then the network for as long as it gains anything."""
    rounds, held_out = _cross_validated_trees(known, len(classes), config, seed, reporter)
    shares = FOREST_SHARES if config.forest.enabled else (0.0,)
    by_share = {share: _of_trees(held_out, share) for share in shares}
    share = choose_forest_share(by_share)
    forest_gain = f1_of_trees(by_share[share]) - f1_of_trees(by_share[0.0])
    reporter.say(f"trees: share of the forest {share:g} ({100 * forest_gain:+.1f} points)")
    networks: list[TrafficClassifier] = []
    opinions: list[Opinions] = []
    choice = WeightChoice(0.0, 0.0, 0.0)
    for block in held_out:
        network = _blind_network(block, len(classes), config, seed, device, reporter)
        networks.append(network)
        edition = TrafficEdition(classes, config.tier, network, None, Decision(), NO_KEYS)
        logits, _ = edition.read_network(block.held.flows)
        opinions.append(
            Opinions(log_softmax(logits), block.log_trees(share), block.held.label, block.recording)
        )
        choice = choose_weight(opinions)
        if choice.weight == 0:
            break
    said = joined(opinions) if choice.weight else by_share[share]
    decision = settle(said, choice.weight, config.decision)
    decision = decision.model_copy(update={"forest_share": share})
    networks += [networks[0]] * (len(held_out) - len(networks))  # without a say
    early = [
        (
            TrafficEdition(
                classes, config.tier, network, block.tree, decision, NO_KEYS, block.forest
            ),
            _some(block.held.flows, seed),
        )
        for block, network in zip(held_out, networks, strict=True)
    ]
    exit_at = early_exit(early, config.decision.early_agreement)
    decision = decision.model_copy(update={"early_exit": exit_at})
    reporter.say(
        f"pool: network weight {choice.weight:g} (gain {100 * choice.gain:+.1f} ± "
        f"{100 * choice.standard_error:.1f} points of macro F1), {rounds} rounds of the tree"
    )
    return Pool(decision, rounds, choice.gain, choice.standard_error, forest_gain)


def early_exit(editions: Sequence[tuple[TrafficEdition, FlowBatch]], agreement: float) -> float:
    """The least confidence at which a running flow's first sure verdict is its last one's."""
    confidences, verdicts, finals = [], [], []
    for edition, flows in editions:
        final = edition.probability(flows).argmax(axis=1)
        kept = flows.flow["kept"]
        confidence = np.zeros((len(flows), edition.packets), np.float32)
        verdict = np.tile(final[:, None], edition.packets)
        for place in range(edition.packets):
            running = np.flatnonzero(kept > place + 1)
            if len(running):
                found = edition.probability(flows[running].cut(place + 1))
                confidence[running, place] = found.max(axis=1)
                verdict[running, place] = found.argmax(axis=1)
        confidences.append(confidence)
        verdicts.append(verdict)
        finals.append(final)
    confidence, verdict = np.concatenate(confidences), np.concatenate(verdicts)
    final = np.concatenate(finals)
    for threshold in EARLY_CONFIDENCES:
        sure = confidence >= threshold
        early = sure.any(axis=1)
        if not early.any():
            break
        same = verdict[np.arange(len(final)), sure.argmax(axis=1)] == final
        if same[early].mean() >= agreement:
            return float(threshold)
    return 1.0


def _cross_validated_trees(
    known: LabelledPart, classes: int, config: TrafficConfig, seed: int, reporter: Reporter
) -> tuple[int, list[_Block]]:
    """The best number of rounds, and each block with the trees of so many rounds."""
    recording = recordings(known, gap_s=config.split.gap_s)
    sides, trees = [], []
    for rows, held_rows in blocks(known, gap_s=config.split.gap_s):
        sides.append((known[rows], known[held_rows], recording[held_rows]))
        trees.append(
            train_tree(
                known[rows],
                known[held_rows],
                config.tree,
                tier=config.tier,
                classes=classes,
                seed=seed,
                threads=config.threads,
                reporter=reporter,
            )
        )
    curves = [tree.curve for tree in trees if len(tree.curve)]
    rounds = best_rounds(np.mean(curves, axis=0)) if curves else config.tree.rounds
    held_out = []
    for (training, held, groups), tree in zip(sides, trees, strict=True):
        booster = tree.booster(rounds)
        forest = None
        if config.forest.enabled:
            forest = train_forest(
                training,
                config.forest,
                tier=config.tier,
                classes=classes,
                seed=seed,
                threads=config.threads,
                reporter=reporter,
            )
        table, _ = feature_table(held.flows, config.tier)
        log_forest = None if forest is None else forest_log_probability(forest, table)
        log_boosted = tree_log_probability(booster, table)
        held_out.append(_Block(training, held, groups, booster, forest, log_boosted, log_forest))
    return rounds, held_out


def best_rounds(curve: NDArray[np.float64]) -> int:
    """Where a curve (rounds,), smoothed over its neighbours, is highest."""
    width = min(SMOOTHED_ROUNDS, len(curve))
    smooth = np.convolve(curve, np.full(width, 1 / width), mode="valid")
    return int(np.argmax(smooth)) + width // 2 + 1


def _blind_network(
    block: _Block,
    classes: int,
    config: TrafficConfig,
    seed: int,
    device: str,
    reporter: Reporter,
) -> TrafficClassifier:
    """A network that has not seen a block: without pre-training, and with its last weights."""
    network = new_network(config, classes, seed=seed).to(device)
    fine_tune(
        network,
        block.training,
        block.held[np.zeros(0, np.int64)],
        config,
        seed=seed,
        device=device,
        checkpoint=None,
        reporter=reporter,
    )
    return network


def _of_trees(held_out: Sequence[_Block], share: float) -> Opinions:
    found = []
    for each in held_out:
        said = each.log_trees(share)
        found.append(Opinions(said, said, each.held.label, each.recording))
    return joined(found)


def _some(flows: FlowBatch, seed: int) -> FlowBatch:
    if len(flows) <= EARLY_FLOWS:
        return flows
    return flows[np.sort(np.random.default_rng(seed).permutation(len(flows))[:EARLY_FLOWS])]


NO_KEYS = KeySpace(np.zeros(0, np.float32), np.zeros(0, np.float32))  # nothing is remembered here
