"""What the classifier has to beat, each trained on the same flows.

All but the port rule see a tier's features and no port. Parameters are chosen on the validation
flows; the test flows are not looked at.
"""

from __future__ import annotations

from typing import Protocol

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

from feature_store.traffic.features import Tier, feature_table, flow_features
from feature_store.traffic.flows import FlowBatch
from pipelines.progress import Silent
from pipelines.traffic.config import TreeConfig
from pipelines.traffic.metrics import macro_f1
from pipelines.traffic.train_network import LabelledPart
from pipelines.traffic.train_tree import train_tree

FloatArray = NDArray[np.float32]
KNN_PACKETS = 10
NEIGHBOURS = (1, 3, 5, 9)
FOREST_LEAVES = (1, 3)
BOOSTED = (TreeConfig(cuts=(), leaves=15), TreeConfig(cuts=(), leaves=31))
TREES = 300


class Baseline(Protocol):
    """A trained baseline: flows in, probabilities (n, classes) out."""

    def __call__(self, flows: FlowBatch) -> FloatArray:
        """(n, classes) float32, rows sum to 1."""


def train_baseline(
    name: str,
    training: LabelledPart,
    validation: LabelledPart,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
) -> Baseline:
    """Train the baseline of a name.

    Raises:
        ValueError: no baseline has that name.
    """
    if name == "majority":
        return _majority(training, classes)
    if name == "port_rule":
        return _port_rule(training, classes)
    if name == "knn":
        return _nearest(training, validation, classes)
    if name == "random_forest":
        return _forest(training, validation, tier=tier, classes=classes, seed=seed, threads=threads)
    if name == "lightgbm":
        return _boosted(
            training, validation, tier=tier, classes=classes, seed=seed, threads=threads
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


def _nearest(training: LabelledPart, validation: LabelledPart, classes: int) -> Baseline:
    """k-NN, L1 on the first packets' sizes, gaps and directions, each scaled by its deviation."""
    table = _sequence(training.flows)
    scale = np.maximum(table.std(axis=0), 1e-6)
    held = _sequence(validation.flows) / scale

    def fitted(neighbours: int) -> KNeighborsClassifier:
        model = KNeighborsClassifier(
            min(neighbours, len(table)), metric="manhattan", weights="distance"
        )
        return model.fit(table / scale, training.label)

    models = [fitted(k) for k in NEIGHBOURS]
    best = max(
        models,
        key=lambda model: macro_f1(validation.label, model.predict(held), classes=classes),
    )
    return lambda flows: _spread(best, _sequence(flows) / scale, classes)


def _sequence(flows: FlowBatch) -> FloatArray:
    seen = flow_features(flows, Tier.T0)
    gap = np.log10(seen.gap_s[:, :KNN_PACKETS] + 1e-6) + 6
    first = slice(None), slice(KNN_PACKETS)
    return np.concatenate([seen.size[first], gap, seen.direction[first]], axis=1).astype(np.float32)


def _forest(
    training: LabelledPart,
    validation: LabelledPart,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
) -> Baseline:
    table, held = (feature_table(part.flows, tier)[0] for part in (training, validation))

    def fitted(least_rows: int) -> RandomForestClassifier:
        model = RandomForestClassifier(
            TREES, min_samples_leaf=least_rows, random_state=seed, n_jobs=threads
        )
        return model.fit(table, training.label)

    best = max(
        (fitted(least) for least in FOREST_LEAVES),
        key=lambda model: macro_f1(validation.label, model.predict(held), classes=classes),
    )
    return lambda flows: _spread(best, feature_table(flows, tier)[0], classes)


def _boosted(
    training: LabelledPart,
    validation: LabelledPart,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
) -> Baseline:
    """LightGBM on whole flows, with early stopping; the product's tree without its cuts."""
    held = feature_table(validation.flows, tier)[0]

    def fitted(config: TreeConfig) -> lightgbm.Booster:
        return train_tree(
            training,
            validation,
            config,
            tier=tier,
            classes=classes,
            seed=seed,
            threads=threads,
            reporter=Silent(),
        )

    best = max(
        map(fitted, BOOSTED),
        key=lambda tree: macro_f1(
            validation.label, np.asarray(tree.predict(held)).argmax(1), classes=classes
        ),
    )
    return lambda flows: np.asarray(best.predict(feature_table(flows, tier)[0]), np.float32)


def _spread(
    model: KNeighborsClassifier | RandomForestClassifier, table: FloatArray, classes: int
) -> FloatArray:
    """Probabilities in the columns of all classes, of which training may lack some."""
    found = np.zeros((len(table), classes), np.float32)
    if len(table):
        found[:, model.classes_] = model.predict_proba(table)
    return found
