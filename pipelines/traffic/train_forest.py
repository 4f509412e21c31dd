"""Trains the random forest that stands beside the boosted trees."""

from __future__ import annotations

from sklearn.ensemble import RandomForestClassifier

from feature_store.editions.random_forest import RandomForest
from feature_store.traffic.features import Tier
from pipelines.progress import Reporter
from pipelines.traffic.beginnings import with_beginning
from pipelines.traffic.config import ForestConfig
from pipelines.traffic.dataset import LabelledPart

STEP = 20  # trees between two moves of the bar


def train_forest(
    training: LabelledPart,
    config: ForestConfig,
    *,
    tier: Tier,
    classes: int,
    seed: int,
    threads: int,
    reporter: Reporter,
) -> RandomForest:
    """`config.trees` trees on whole flows and, more lightly, on what they were at first."""
    table, rows, weight = with_beginning(
        training.flows, config.beginning_weight, tier=tier, seed=seed
    )
    # Best first, which a bound on the leaves asks for, is the slower way to grow the same tree.
    bounded = config.leaves < len(table)
    model = RandomForestClassifier(
        max_features=config.feature_share,
        min_samples_leaf=config.least_rows,
        max_leaf_nodes=config.leaves if bounded else None,
        random_state=seed,
        n_jobs=threads,
        warm_start=True,
    )
    with reporter.bar("forest", config.trees) as bar:
        for begin in range(0, config.trees, STEP):
            model.set_params(n_estimators=min(begin + STEP, config.trees))
            model.fit(table, training.label[rows], sample_weight=weight)
            bar.advance(model.n_estimators - begin)
    return RandomForest.of(
        [each.tree_ for each in model.estimators_], model.classes_, classes=classes
    )
