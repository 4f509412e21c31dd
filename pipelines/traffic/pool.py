"""How network and trees are pooled, chosen by cross-validation over blocks of recordings.

The part of the recordings that follows training resembles it more than a later day does, and there
the network looks better than it is. So each block of recordings is classified by models that never
saw one of its conversations.

- Boosted trees and forest are rivals of one kind, and which is ahead changes with the day: each has
  half the say. A share that is fitted to three blocks is fitted to their noise, and equal weights
  are hard to beat (Clemen, 1989; Smith and Wallis, 2009); one that is alone better beyond noise
  has all of it.
- The network has a say only where its gain over the trees is beyond noise.

Beyond noise is more than one standard error of macro F1, with whole recordings resampled (the
one-standard-error rule of Breiman et al., 1984).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    pooled,
    tree_log_probability,
    trees_pooled,
)
from feature_store.error_memory import KeySpace
from feature_store.traffic.features import feature_table
from feature_store.traffic.flows import FlowBatch
from models.traffic.classifier import TrafficClassifier
from pipelines.progress import Reporter
from pipelines.traffic.config import DecisionConfig, TrafficConfig, TreeConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.metrics import macro_f1
from pipelines.traffic.split import blocks, recordings
from pipelines.traffic.train_forest import train_forest
from pipelines.traffic.train_network import fine_tune, new_network
from pipelines.traffic.train_tree import train_tree

FOREST_SHARES = (0.5, 0.0, 1.0)  # the first where no other is clearly better
NETWORK_WEIGHTS = tuple(np.linspace(0, 1, 11).round(1).tolist())
TEMPERATURES = tuple(np.geomspace(0.4, 4.0, 30).tolist())
EARLY_CONFIDENCES = tuple(np.linspace(0.5, 1.0, 26).round(2).tolist())
RESAMPLES = 200
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
class Opinions:
    """What network and trees say of n flows that neither has seen.

    Shapes:
        log_network, log_trees: (n, C) log probabilities; label, recording: (n,)
    """

    log_network: FloatArray
    log_trees: FloatArray
    label: IntArray
    recording: IntArray


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
    forest_gain = _f1(by_share[share]) - _f1(by_share[0.0])
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
    said = _joined(opinions) if choice.weight else by_share[share]
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


@dataclass(frozen=True)
class WeightChoice:
    """A network weight, its gain over the trees alone in macro F1, and that gain's error."""

    weight: float
    gain: float
    standard_error: float


def choose_weight(opinions: Sequence[Opinions]) -> WeightChoice:
    """The weight whose gain is furthest above its standard error; 0 where none is above."""
    said = _joined(opinions)
    found = np.stack(
        [
            pooled(said.log_network, said.log_trees, Decision(network_weight=weight)).argmax(axis=1)
            for weight in NETWORK_WEIGHTS
        ]
    )
    gain, error = _gains(found, said)
    if not len(gain):
        return WeightChoice(0.0, 0.0, 0.0)
    best = int(np.argmax(gain - error))
    weight = NETWORK_WEIGHTS[best] if gain[best] > error[best] else 0.0
    tried = best or 1 + int(np.argmax(gain[1:]))
    return WeightChoice(weight, float(gain[tried]), float(error[tried]))


def settle(said: Opinions, weight: float, config: DecisionConfig) -> Decision:
    """Temperature by the least log loss, and the confidence that a set share falls below."""
    if not len(said.label):
        return Decision(network_weight=weight)
    best, _ = _calibrated(said, weight)
    confidence = pooled(said.log_network, said.log_trees, best).max(axis=1)
    below = float(np.quantile(confidence, config.rejected_share))
    # Where nearly all are sure, a confidence of .99 would be among the least: what is surer than
    # the share that may be rejected is not unknown.
    return best.model_copy(update={"unknown_below": min(below, 1 - config.rejected_share)})


def _calibrated(said: Opinions, weight: float) -> tuple[Decision, float]:
    """The temperature with the least log loss, and that loss."""
    rows = np.arange(len(said.label))

    def log_loss(decision: Decision) -> float:
        probability = pooled(said.log_network, said.log_trees, decision)[rows, said.label]
        return float(-np.log(np.maximum(probability, 1e-12)).mean())

    tried = [Decision(network_weight=weight, temperature=each) for each in TEMPERATURES]
    loss, best = min(((log_loss(each), each) for each in tried), key=lambda found: found[0])
    return best, loss


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


def choose_forest_share(by_share: Mapping[float, Opinions]) -> float:
    """Half, unless one kind of trees alone is better by more than one standard error of macro F1;
    0 where nothing was held out."""
    half = by_share[FOREST_SHARES[0]]
    if not len(half.label):
        return 0.0
    found = np.stack([by_share[share].log_trees.argmax(axis=1) for share in FOREST_SHARES])
    gain, error = _gains(found, half)
    return FOREST_SHARES[int(np.argmax(gain - error))]


def _f1(said: Opinions) -> float:
    """Macro F1 of the trees alone."""
    classes = said.log_trees.shape[1]
    return float(macro_f1(said.label, said.log_trees.argmax(axis=1), classes=classes))


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


def _gains(found: IntArray, said: Opinions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain in macro F1 of each row of `found` (W, n) over its first, and its standard error."""
    classes = said.log_trees.shape[1]
    if not len(said.label):
        return np.zeros(0), np.zeros(0)
    _, group = np.unique(said.recording, return_inverse=True)
    groups = int(group.max()) + 1

    def counts(verdict: IntArray, rows: NDArray[np.bool_] | slice) -> NDArray[np.float64]:
        """(groups, C) how often each class stands in some rows of each recording."""
        cells = group[rows] * classes + verdict[rows]
        counted = np.bincount(cells, minlength=groups * classes)
        return counted.reshape(groups, classes).astype(np.float64)

    everywhere = slice(None)
    truth = counts(said.label, everywhere)[:, None]  # (groups, 1, C)
    claims = np.stack([counts(verdict, everywhere) for verdict in found], axis=1)
    hits = np.stack([counts(verdict, verdict == said.label) for verdict in found], axis=1)

    def gain(times: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R, W) of recordings taken so many times (R, groups)."""
        hit, claim, true = (np.tensordot(times, each, axes=1) for each in (hits, claims, truth))
        f1 = 2 * hit / np.maximum(claim + true, 1)  # (R, W, C)
        present = true > 0
        score = (f1 * present).sum(axis=2) / np.maximum(present.sum(axis=2), 1)
        return np.asarray(score - score[:, :1])

    rng = np.random.default_rng(0)
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return gain(np.ones((1, groups)))[0], gain(drawn.astype(np.float64)).std(axis=0)


def _joined(opinions: Sequence[Opinions]) -> Opinions:
    return Opinions(
        np.concatenate([each.log_network for each in opinions]),
        np.concatenate([each.log_trees for each in opinions]),
        np.concatenate([each.label for each in opinions]),
        np.concatenate([each.recording for each in opinions]),
    )


def _of_trees(held_out: Sequence[_Block], share: float) -> Opinions:
    found = []
    for each in held_out:
        said = each.log_trees(share)
        found.append(Opinions(said, said, each.held.label, each.recording))
    return _joined(found)


def _some(flows: FlowBatch, seed: int) -> FlowBatch:
    if len(flows) <= EARLY_FLOWS:
        return flows
    return flows[np.sort(np.random.default_rng(seed).permutation(len(flows))[:EARLY_FLOWS])]


NO_KEYS = KeySpace(np.zeros(0, np.float32), np.zeros(0, np.float32))  # nothing is remembered here
