"""Trains the gradient-boosted tree that stands beside the network."""

from __future__ import annotations

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.features import Tier, feature_table
from feature_store.traffic.flows import FlowBatch
from pipelines.progress import Reporter
from pipelines.traffic.config import TreeConfig
from pipelines.traffic.metrics import macro_f1
from pipelines.traffic.train_network import LabelledPart


def train_tree(
    training: LabelledPart,
    validation: LabelledPart,
    config: TreeConfig,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
    reporter: Reporter,
) -> lightgbm.Booster:
    """A tree on whole flows and, at the same total weight a flow, on what they were at first."""
    table, rows = _with_cuts(training.flows, config.cuts, tier)
    copies = np.bincount(rows, minlength=len(training.flows))
    counts = np.bincount(training.label, minlength=classes)
    weight = np.maximum(counts, 1).astype(np.float64)[training.label] ** -config.class_weight
    weight = weight / weight.mean() / copies
    held, held_rows = _with_cuts(validation.flows, (), tier)
    known = lightgbm.Dataset(table, training.label[rows], weight=weight[rows])

    def score(probability: NDArray[np.float64], held: lightgbm.Dataset) -> tuple[str, float, bool]:
        label = np.asarray(held.get_label(), np.int64)
        found = probability.argmax(axis=1)
        return "macro F1", macro_f1(label, found, classes=classes), True

    with reporter.bar("tree", config.rounds) as bar:
        return lightgbm.train(
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
            valid_sets=[lightgbm.Dataset(held, validation.label[held_rows], reference=known)],
            feval=score,
            callbacks=[
                lightgbm.early_stopping(config.patience, verbose=False),
                lambda step: bar.advance(1, f"macro F1 {step.evaluation_result_list[0][2]:.3f}"),
            ],
        )


def _with_cuts(
    flows: FlowBatch, cuts: tuple[int, ...], tier: Tier
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The feature table of flows and of their beginnings, and the flow of each of its rows."""
    tables, rows = [feature_table(flows, tier)[0]], [np.arange(len(flows))]
    for packets in cuts:
        longer = np.flatnonzero(flows.flow["kept"] > packets)
        if len(longer):
            tables.append(feature_table(flows[longer].cut(packets), tier)[0])
            rows.append(longer)
    return np.concatenate(tables), np.concatenate(rows)
