"""What the classifier has to beat, each trained on the same flows.

All but the port rule see a tier's features and no port. Parameters are chosen on the validation
flows, and the model is then trained on training and validation flows together, as ours is; the test
flows are not looked at.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

from feature_store.traffic.features import Tier, feature_table, flow_features
from feature_store.traffic.flows import FlowBatch
from pipelines.progress import Silent
from pipelines.traffic.config import TreeConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.metrics import macro_f1
from pipelines.traffic.train_tree import train_tree

FloatArray = NDArray[np.float32]
KNN_PACKETS = 10
NEIGHBOURS = (1, 3, 5, 9)
FOREST_LEAVES = (1, 3)
# LightGBM on whole flows: leaves and class weight; early stopping chooses the rounds.
BOOSTED = ((15, 0.0), (31, 0.0), (15, 0.5))
TREES = 300


class Baseline(Protocol):
    """A trained baseline: flows in, probabilities (n, classes) out."""

    def __call__(self, flows: FlowBatch) -> FloatArray:
        """(n, classes) float32, rows sum to 1."""


Choices = dict[tuple[str, Tier], Any]
"""Parameters by baseline and tier: chosen once, and kept for further seeds."""


def train_baseline(
    name: str,
    training: LabelledPart,
    validation: LabelledPart,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
    tree: TreeConfig | None = None,
    choices: Choices | None = None,
) -> Baseline:
    """Train the baseline of a name.

    Args:
        name: one of `evaluation.baselines` of the configuration.
        training: what the candidates are trained on.
        validation: where the best is chosen; then it is trained on both.
        tier: what is seen of a flow.
        classes: how many there are.
        seed: of whatever is drawn.
        threads: at most.
        tree: rounds and learning rate of LightGBM.
        choices: parameters that are known already; those that are chosen here are added.

    Raises:
        ValueError: no baseline has that name.
    """
    choices = {} if choices is None else choices
    known = training + validation
    if name == "majority":
        return _majority(known, classes)
    if name == "port_rule":
        return _port_rule(known, classes)
    if name == "knn":
        if (name, tier) not in choices:
            choices[name, tier] = _best_neighbours(training, validation, classes)
        return _nearest(known, choices[name, tier], classes)
    if name == "random_forest":
        if (name, tier) not in choices:
            choices[name, tier] = _best_leaves(
                training, validation, tier=tier, classes=classes, seed=seed, threads=threads
            )
        return _forest(
            known, choices[name, tier], tier=tier, classes=classes, seed=seed, threads=threads
        )
    if name == "lightgbm":
        if (name, tier) not in choices:
            choices[name, tier] = _best_boosted(
                training,
                validation,
                tree or TreeConfig(),
                tier=tier,
                classes=classes,
                seed=seed,
                threads=threads,
            )
        return _boosted(
            known, choices[name, tier], tier=tier, classes=classes, seed=seed, threads=threads
        )
    raise ValueError(f"no baseline is called '{name}'")


def _majority(training: LabelledPart, classes: int) -> Baseline:
    share = np.bincount(training.label, minlength=classes) / max(len(training.label), 1)
    return lambda flows: np.tile(share.astype(np.float32), (len(flows), 1))


def _port_rule(training: LabelledPart, classes: int) -> Baseline:
    """The classes' shares among training flows with the same protocol and service port, the lower
    of the two; what is nobody's port gets the overall shares."""
    overall = np.bincount(training.label, minlength=classes).astype(np.float64)
    counts: dict[tuple[int, int], NDArray[np.float64]] = {}
    for service, label in zip(_services(training.flows), training.label, strict=True):
        counts.setdefault(service, overall / overall.sum())[label] += 1

    def classify(flows: FlowBatch) -> FloatArray:
        found = np.stack([counts.get(service, overall) for service in _services(flows)])
        shares: FloatArray = (found / found.sum(1, keepdims=True)).astype(np.float32)
        return shares

    return lambda flows: classify(flows) if len(flows) else np.zeros((0, classes), np.float32)


def _services(flows: FlowBatch) -> list[tuple[int, int]]:
    port = np.minimum(flows.flow["src_port"], flows.flow["dst_port"])
    return list(zip(flows.flow["protocol"].tolist(), port.tolist(), strict=True))


def _best_neighbours(training: LabelledPart, validation: LabelledPart, classes: int) -> int:
    return max(
        NEIGHBOURS,
        key=lambda k: _held_f1(_nearest(training, k, classes), validation, classes),
    )


def _nearest(known: LabelledPart, neighbours: int, classes: int) -> Baseline:
    """k-NN, L1 on the first packets' sizes, gaps and directions, each scaled by its deviation."""
    table = _sequence(known.flows)
    scale = np.maximum(table.std(axis=0), 1e-6)
    model = KNeighborsClassifier(
        min(neighbours, len(table)), metric="manhattan", weights="distance"
    ).fit(table / scale, known.label)
    return lambda flows: _spread(model, _sequence(flows) / scale, classes)


def _sequence(flows: FlowBatch) -> FloatArray:
    seen = flow_features(flows, Tier.T0)
    gap = np.log10(seen.gap_s[:, :KNN_PACKETS] + 1e-6) + 6
    first = slice(None), slice(KNN_PACKETS)
    return np.concatenate([seen.size[first], gap, seen.direction[first]], axis=1).astype(np.float32)


def _best_leaves(
    training: LabelledPart,
    validation: LabelledPart,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
) -> int:
    def score(least_rows: int) -> float:
        found = _forest(
            training, least_rows, tier=tier, classes=classes, seed=seed, threads=threads
        )
        return _held_f1(found, validation, classes)

    return max(FOREST_LEAVES, key=score)


def _forest(
    known: LabelledPart, least_rows: int, *, tier: Tier, classes: int, seed: int, threads: int
) -> Baseline:
    model = RandomForestClassifier(
        TREES, min_samples_leaf=least_rows, random_state=seed, n_jobs=threads
    ).fit(feature_table(known.flows, tier)[0], known.label)
    return lambda flows: _spread(model, feature_table(flows, tier)[0], classes)


def _best_boosted(
    training: LabelledPart,
    validation: LabelledPart,
    tree: TreeConfig,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
) -> TreeConfig:
    """The best of `BOOSTED` and of its numbers of rounds, by macro F1 on the validation flows."""

    def tried(config: TreeConfig) -> tuple[float, TreeConfig]:
        curve = train_tree(
            training,
            validation,
            config,
            tier=tier,
            classes=classes,
            seed=seed,
            threads=threads,
            reporter=Silent(),
        ).curve
        if not len(curve):
            return 0.0, config
        return float(curve.max()), config.model_copy(update={"rounds": int(curve.argmax()) + 1})

    candidates = [
        tree.model_copy(
            update={
                "members": 1,
                "beginning_weight": 0.0,
                "leaves": leaves,
                "class_weight": power,
            }
        )
        for leaves, power in BOOSTED
    ]
    return max(map(tried, candidates), key=lambda found: found[0])[1]


def _boosted(
    known: LabelledPart, config: TreeConfig, *, tier: Tier, classes: int, seed: int, threads: int
) -> Baseline:
    booster = train_tree(
        known,
        None,
        config,
        tier=tier,
        classes=classes,
        seed=seed,
        threads=threads,
        reporter=Silent(),
    ).booster()
    return lambda flows: np.asarray(booster.predict(feature_table(flows, tier)[0]), np.float32)


def _held_f1(baseline: Baseline, held: LabelledPart, classes: int) -> float:
    return macro_f1(held.label, baseline(held.flows).argmax(axis=1), classes=classes)


def _spread(
    model: KNeighborsClassifier | RandomForestClassifier, table: FloatArray, classes: int
) -> FloatArray:
    """Probabilities in the columns of all classes, of which training may lack some."""
    found = np.zeros((len(table), classes), np.float32)
    if len(table):
        found[:, model.classes_] = model.predict_proba(table)
    return found
