"""Trains the gradient-boosted tree that stands beside the network."""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.features import Tier, feature_table
from pipelines.progress import Reporter
from pipelines.traffic.beginnings import with_beginning
from pipelines.traffic.config import TreeConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.metrics import macro_f1


@dataclass(frozen=True)
class TrainedTree:
    """A tree, and the macro F1 on held-out flows after each of its rounds.

    Shapes:
        curve: (rounds,); empty where nothing was held out
    """

    booster: lightgbm.Booster
    curve: NDArray[np.float64]


def train_tree(
    training: LabelledPart,
    held: LabelledPart | None,
    config: TreeConfig,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
    reporter: Reporter,
) -> TrainedTree:
    """`config.rounds` rounds on whole flows and, more lightly, on what they were at first."""
    table, rows, weight = with_beginning(
        training.flows, config.beginning_weight, tier=tier, seed=seed
    )
    counts = np.bincount(training.label, minlength=classes)
    weight = weight * np.maximum(counts, 1).astype(np.float64)[training.label[rows]] ** (
        -config.class_weight
    )
    known = lightgbm.Dataset(table, training.label[rows], weight=weight / weight.mean())
    curve: list[float] = []

    def score(probability: NDArray[np.float64], held: lightgbm.Dataset) -> tuple[str, float, bool]:
        label = np.asarray(held.get_label(), np.int64)
        curve.append(macro_f1(label, probability.argmax(axis=1), classes=classes))
        return "macro F1", curve[-1], True

    watched = []
    if held is not None and len(held.label):
        held_table = feature_table(held.flows, tier)[0]
        watched = [lightgbm.Dataset(held_table, held.label, reference=known)]
    with reporter.bar("tree", config.rounds) as bar:
        booster = lightgbm.train(
            {
                "objective": "multiclass",
                "metric": "none",
                "num_class": classes,
                "learning_rate": config.learning_rate,
                "num_leaves": config.leaves,
                "min_data_in_leaf": config.least_rows,
                "feature_fraction": config.feature_share,
                "bagging_fraction": config.row_share,
                "bagging_freq": 1,
                "seed": seed,
                "deterministic": True,
                "force_row_wise": True,
                "num_threads": threads,
                "verbose": -1,
            },
            known,
            num_boost_round=config.rounds,
            valid_sets=watched,
            feval=score,
            callbacks=[
                lambda _: bar.advance(1, f"macro F1 {curve[-1]:.3f}" if curve else ""),
            ],
        )
    return TrainedTree(booster, np.array(curve))
