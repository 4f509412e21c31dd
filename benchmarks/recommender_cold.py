"""Items held out of every training interaction: does the graph place what nobody has met?

    python -m benchmarks.recommender_cold [--data DIR] [--seeds N] [--quick]

A tenth of the items (drawn by the seed) lose all their interactions. The users who had met any of
them are asked to rank those items alone, given the rest of their history: recall@20. `content_only`
is the item tower on text and categories; ours adds the graph network, which reaches a cold item
over near texts and shared categories.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks import item_types
from benchmarks.harness import Result, mean_and_spread, parse
from feature_store.interactions.dataset import Dataset
from models.allocator import keep_buffers
from pipelines.progress import Terminal
from pipelines.recommender.baselines import Popularity, TextKNN
from pipelines.recommender.cases import EvaluationCases, Split
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.evaluation import Evaluation, Ranker, evaluate
from pipelines.recommender.preparation import Prepared, prepare
from pipelines.recommender.training import train

METRIC = "recall@20"
COLD_SHARE = 0.1
SETTINGS: dict[str, Any] = {
    "graph.top_k": 10,
    "graph_network.dimension": 128,
    "graph_network.hidden": 128,
    "graph_network.fanouts": (10, 5),
    "graph_network.batch_size": 2_048,
    "graph_network.epochs": 5,
    "towers.free_vectors": False,
    "towers.listens": False,
    "towers.dimension": 128,
    "towers.hidden": 0,
    "towers.epochs": 8,
    "towers.batch_size": 256,
    "linear.weight": 0.0,
}


def hold_out_items(prepared: Prepared, seed: int) -> tuple[Split, EvaluationCases]:
    """Every interaction of a tenth of the items is the test; those items are the candidates."""
    log = prepared.log
    rng = np.random.default_rng(seed)
    cold = np.zeros(log.n_items, np.bool_)
    cold[rng.permutation(log.n_items)[: max(1, int(log.n_items * COLD_SHARE))]] = True
    split = Split(
        user=log.user,
        item=log.item,
        part=np.where(cold[log.item], "test", "train"),
        n_users=log.n_users,
        n_items=log.n_items,
    )
    return split, split.cases("test", candidates=cold)


def main() -> None:
    """Compare over seeds and print the last line."""
    arguments = parse(__doc__, data="recsys/anime", seeds=5)
    result = Result("recommender_cold", seeds=arguments.seeds)
    keep_buffers()
    quick = {"towers.epochs": 1, "graph_network.epochs": 1, "towers.dimension": 32}
    settings = SETTINGS | {"threads": arguments.threads} | (quick if arguments.quick else {})
    config = RecommenderConfig.load(None, settings)
    prepared = prepare(as_one_type(item_types.read(arguments.data)))
    reporter = Terminal()
    found: dict[str, list[Evaluation]] = {}
    for seed in range(arguments.seeds):
        split, cases = hold_out_items(prepared, seed)
        matrix = split.interactions("train")
        training = prepared.log.take(split.part == "train")
        popularity = np.asarray(matrix.sum(0), dtype=np.float64).ravel()
        seeded = config.changed(seed=seed)
        without = seeded.changed(**{"graph_network.enabled": False})
        rankers: dict[str, Ranker] = {
            "graph_and_content": train(prepared, training, seeded, reporter=reporter),
            "content_only": train(prepared, training, without, reporter=reporter),
            "popularity": Popularity.fit(matrix),
            "text_knn": TextKNN.fit(prepared.content),
        }
        for name, ranker in rankers.items():
            evaluation = evaluate(ranker, cases, item_popularity=popularity, cutoffs=(20,))
            found.setdefault(name, []).append(evaluation)
            reporter.say(f"seed {seed}  {name:<18} {METRIC} {evaluation.value(METRIC):.4f}")
    report(found, result)


def interval_over_seeds(values: list[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; a seed draws the held-out items, too."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    spread = float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return mean - spread, mean + spread


def as_one_type(dataset: Dataset) -> Dataset:
    """Item types become a category: here all cold items compete with each other."""
    import polars as pl

    items = dataset.items.with_columns(kind=pl.concat_list("item_type"), item_type=pl.lit("item"))
    return Dataset(
        interactions=dataset.interactions, items=items, users=dataset.users, links=dataset.links
    )


def report(found: dict[str, list[Evaluation]], result: Result) -> None:
    """The table on standard error, the last line on standard output."""
    rows = {
        name: mean_and_spread([each.value(METRIC) for each in evaluations], METRIC)
        for name, evaluations in found.items()
    }
    gains = [
        ours.value(METRIC) - theirs.value(METRIC)
        for ours, theirs in zip(found["graph_and_content"], found["content_only"], strict=True)
    ]
    rows["graph_and_content"] |= mean_and_spread(gains, "gain_over_content")
    result.ours = rows.pop("graph_and_content") | {
        "gains": gains,
        "gain_over_content_ci": interval_over_seeds(gains),
    }
    result.baselines = dict(rows)
    table = Table("ranker", METRIC, title=f"cold items, {result.seeds} seeds")
    for name, row in {"ours": result.ours, **rows}.items():
        table.add_row(name, f"{row[METRIC]:.4f} ±{row[f'{METRIC}_sd']:.4f}")
    Console(stderr=True).print(table)
    result.print()


if __name__ == "__main__":
    main()
