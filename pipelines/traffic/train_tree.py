"""Trains the gradient-boosted trees that stand beside the network."""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.features import Tier, feature_table
from pipelines.progress import Reporter
from pipelines.traffic.averaged_trees import averaged
from pipelines.traffic.beginnings import with_beginning
from pipelines.traffic.config import TreeConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.metrics import macro_f1

MEMBER_SEEDS = 1_000  # from one member's seed to the next's
# A leaf's value is a sum of gradients over one of second derivatives. Where rows are few and sure,
# both are all but nothing and their quotient is anything: boosting diverged.
LEAST_CURVATURE = 0.1


@dataclass(frozen=True)
class TrainedTree:
    """Boosted models that are averaged, and what is right of held-out flows after each round.

    Shapes:
        curve: (rounds,) macro F1, the mean of the members'; empty where nothing was held out
    """

    members: tuple[lightgbm.Booster, ...]
    curve: NDArray[np.float64]

    def booster(self, rounds: int | None = None) -> lightgbm.Booster:
        """All members in one, the first `rounds` of each."""
        if rounds is None:
            return averaged(self.members)
        return averaged(
            [
                lightgbm.Booster(model_str=member.model_to_string(num_iteration=rounds))
                for member in self.members
            ]
        )


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
    held_table = held_label = None
    if held is not None and len(held.label):
        held_table, held_label = feature_table(held.flows, tier)[0], held.label
    members, curves = [], []
    with reporter.bar("tree", config.members * config.rounds) as bar:
        for member in range(config.members):
            known = lightgbm.Dataset(table, training.label[rows], weight=weight / weight.mean())
            watched = (
                []
                if held_table is None
                else [lightgbm.Dataset(held_table, held_label, reference=known)]
            )
            curve: list[float] = []

            def score(
                probability: NDArray[np.float64],
                held: lightgbm.Dataset,
                curve: list[float] = curve,
            ) -> tuple[str, float, bool]:
                label = np.asarray(held.get_label(), np.int64)
                curve.append(macro_f1(label, probability.argmax(axis=1), classes=classes))
                return "macro F1", curve[-1], True

            def advance(_: object, curve: list[float] = curve) -> None:
                bar.advance(1, f"macro F1 {curve[-1]:.3f}" if curve else "")

            members.append(
                lightgbm.train(
                    {
                        "objective": "multiclass",
                        "metric": "none",
                        "num_class": classes,
                        "learning_rate": config.learning_rate,
                        "num_leaves": config.leaves,
                        "min_data_in_leaf": config.least_rows,
                        "min_sum_hessian_in_leaf": LEAST_CURVATURE,
                        "feature_fraction": config.feature_share,
                        "bagging_fraction": config.row_share,
                        "bagging_freq": 1,
                        "extra_trees": member % 2 == 1,
                        "seed": seed + MEMBER_SEEDS * member,
                        "deterministic": True,
                        "force_row_wise": True,
                        "num_threads": threads,
                        "verbose": -1,
                    },
                    known,
                    num_boost_round=config.rounds,
                    valid_sets=watched,
                    feval=score,
                    callbacks=[advance],
                )
            )
            curves.append(curve)
    shortest = min(map(len, curves))
    return TrainedTree(tuple(members), np.mean([each[:shortest] for each in curves], axis=0))
