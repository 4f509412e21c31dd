"""What is chosen of held-out opinions: shares, weights, temperature, the unknown threshold.

A choice other than the plain one must be better beyond noise: by more than one standard error of
macro F1, with whole recordings resampled (the one-standard-error rule of Breiman et al., 1984).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.traffic import Decision, pooled
from pipelines.traffic.config import DecisionConfig
from pipelines.traffic.metrics import macro_f1

FOREST_SHARES = (0.5, 0.0, 1.0)  # the first where no other is clearly better
NETWORK_WEIGHTS = tuple(np.linspace(0, 1, 11).round(1).tolist())
TEMPERATURES = tuple(np.geomspace(0.4, 4.0, 30).tolist())
RESAMPLES = 200

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


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
class WeightChoice:
    """A network weight, its gain over the trees alone in macro F1, and that gain's error."""

    weight: float
    gain: float
    standard_error: float


def choose_weight(opinions: Sequence[Opinions]) -> WeightChoice:
    """The weight whose gain is furthest above its standard error; 0 where none is above."""
    said = joined(opinions)
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


def choose_forest_share(by_share: Mapping[float, Opinions]) -> float:
    """Half, unless one kind of trees alone is better by more than one standard error of macro F1;
    0 where nothing was held out."""
    half = by_share[FOREST_SHARES[0]]
    if not len(half.label):
        return 0.0
    found = np.stack([by_share[share].log_trees.argmax(axis=1) for share in FOREST_SHARES])
    gain, error = _gains(found, half)
    return FOREST_SHARES[int(np.argmax(gain - error))]


def f1_of_trees(said: Opinions) -> float:
    """Macro F1 of the trees alone."""
    classes = said.log_trees.shape[1]
    return float(macro_f1(said.label, said.log_trees.argmax(axis=1), classes=classes))


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


def joined(opinions: Sequence[Opinions]) -> Opinions:
    """Those of all blocks."""
    return Opinions(
        np.concatenate([each.log_network for each in opinions]),
        np.concatenate([each.log_trees for each in opinions]),
        np.concatenate([each.label for each in opinions]),
        np.concatenate([each.recording for each in opinions]),
    )
