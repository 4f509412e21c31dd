"""What weak signals are worth: views and carts beside purchases.

    python -m benchmarks.recommender_weak_signals [--data DIR] [--seeds N] [--quick]

DIR holds users × items matrices, `train_mat_buy.npz`, `…_cart.npz`, `…_view.npz` (Unix seconds) and
`test_mat.npz`: one purchase held out per user. Every item that the user has not met competes;
recall@20 (here the hit rate) and NDCG@20. Arms differ in what the model is told, not in settings:

    full             views and carts weigh half in a history, and make edges of their own
    no_weak_edges    they weigh half, and make no edges
    all_alike        a view is as good as a purchase
    purchases_only   they are left out
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from rich.console import Console

from benchmarks.harness import Result, mean_and_spread, parse
from feature_store.interactions.dataset import Dataset
from models.allocator import keep_buffers
from pipelines.progress import Terminal
from pipelines.recommender.baselines import DualEASE, ItemKNN, Popularity
from pipelines.recommender.cases import fixed_split
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.evaluation import Evaluation, Ranker, evaluate
from pipelines.recommender.preparation import prepare
from pipelines.recommender.report import comparison_table
from pipelines.recommender.training import train

METRICS = ("recall@20", "ndcg@20", "coverage@20")
STRONG, WEAK = "buy", ("cart", "view")
SETTINGS: dict[str, Any] = {
    "graph_network.enabled": False,
    "graph.top_k": 10,
    "graph.strength": "cosine",
    "towers.dimension": 64,
    "towers.hidden": 0,
    "towers.epochs": 8,
    "towers.batch_size": 256,
    "towers.learning_rate_vectors": 2e-3,
    "linear.rank": 1_024,
    "history.weak_signals": WEAK,
}
LAMBDA = 50.0


def read(folder: Path) -> Dataset:
    """The matrices as one table of interactions; what is held out comes after everything else."""
    names = {f"train_mat_{kind}": (kind, "train") for kind in (STRONG, *WEAK)}
    names["test_mat"] = (STRONG, "test")
    if missing := [name for name in names if not (folder / f"{name}.npz").exists()]:
        raise SystemExit(f"{folder} holds no {missing[0]}.npz")
    matrices = {name: sp.load_npz(folder / f"{name}.npz").tocoo() for name in names}
    last = max(int(each.data.max()) for each in matrices.values())
    parts = []
    for name, (kind, split) in names.items():
        matrix = matrices[name]
        seconds = matrix.data.astype(np.int64) if split == "train" else np.full(matrix.nnz, last)
        parts.append(
            pl.DataFrame(
                {
                    "user_id": pl.Series(matrix.row).cast(pl.String),
                    "item_id": pl.Series(matrix.col).cast(pl.String),
                    "timestamp": pl.Series(seconds * 1_000).cast(pl.Datetime("ms", "UTC")),
                    "type": [kind] * matrix.nnz,
                    "split": [split] * matrix.nnz,
                }
            )
        )
    return Dataset(pl.concat(parts))


def main() -> None:
    """Compare over seeds and print the last line."""
    arguments = parse(__doc__, data="recsys/retailrocket-mb", seeds=3)
    result = Result("recommender_weak_signals", seeds=arguments.seeds)
    keep_buffers()
    quick = {"towers.epochs": 1, "towers.dimension": 16} if arguments.quick else {}
    config = RecommenderConfig.load(None, SETTINGS | {"threads": arguments.threads} | quick)
    prepared = prepare(read(arguments.data))
    log = prepared.log
    labels: Any = log.split
    split = fixed_split(log.user, log.item, labels, n_users=log.n_users, n_items=log.n_items)
    cases = split.cases("test")
    matrix = split.interactions("train")
    training = log.take(split.part == "train")
    purchases = training.take(training.signals([STRONG]))
    popularity = np.asarray(matrix.sum(0), dtype=np.float64).ravel()
    strong_cases = replace(cases, history=purchases.matrix()[cases.user_rows], slices={})
    alike = config.changed(**{"history.weak_signals": ()})
    arms = {
        "full": (training, config),
        "no_weak_edges": (training, config.changed(**{"graph.weak_signals": False})),
        "all_alike": (training, alike),
        "purchases_only": (purchases, alike),
    }
    fits: dict[str, Callable[[], Ranker]] = {
        "popularity": lambda: Popularity.fit(matrix),
        "itemknn": lambda: ItemKNN.fit(matrix),
        "ease": lambda: DualEASE.fit(matrix, regularisation=LAMBDA),
        "ease_purchases": lambda: replace(
            DualEASE.fit(purchases.matrix(), regularisation=LAMBDA), name="ease_purchases"
        ),
    }
    found: dict[str, list[Evaluation]] = {}
    reporter = Terminal()

    def measure(name: str, ranker: Ranker) -> None:
        asked = strong_cases if name.endswith("purchases") or name == "purchases_only" else cases
        evaluation = replace(
            evaluate(ranker, asked, item_popularity=popularity, cutoffs=(20,)), ranker=name
        )
        found.setdefault(name, []).append(evaluation)
        figures = "  ".join(f"{metric} {evaluation.value(metric):.4f}" for metric in METRICS)
        reporter.say(f"{name:<16} {figures}")

    for seed in range(arguments.seeds):
        for name, (known, chosen) in arms.items():
            measure(name, train(prepared, known, chosen.changed(seed=seed), reporter=reporter))
    for name, fit in fits.items():
        measure(name, fit())
    rows: dict[str, dict[str, Any]] = {}
    for name, evaluations in found.items():
        rows[name] = {}
        for metric in METRICS:
            rows[name] |= mean_and_spread([each.value(metric) for each in evaluations], metric)
    result.ours = rows.pop("full")
    result.baselines = rows
    Console(stderr=True).print(
        comparison_table([each[0] for each in found.values()], metrics=METRICS)
    )
    result.print()


if __name__ == "__main__":
    main()
