"""The public-split benchmarks: our towers and tuned baselines on one train/test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from benchmarks.harness import Arguments, Result, mean_and_spread
from feature_store.interactions.importers import import_dataset
from models.allocator import keep_buffers
from pipelines.progress import Terminal
from pipelines.recommender.baselines import IALS, ItemKNN, Popularity, fit_ease
from pipelines.recommender.baselines.tuning import tune
from pipelines.recommender.cases import Split, fixed_split
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.evaluation import Evaluation, Ranker, evaluate
from pipelines.recommender.preparation import prepare
from pipelines.recommender.report import comparison_table
from pipelines.recommender.training import train

METRICS = ("recall@20", "ndcg@20", "coverage@20")
PART_OPTION = {
    "--part": {
        "choices": ("test", "validation"),
        "default": "test",
        "help": "validation is a part of the training part, for choosing settings",
    }
}
_console = Console(stderr=True)

Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Validation:
    """How a validation part is drawn from the training part: see `Split.with_validation`."""

    share: float = 0.1
    popularity_tilt: float = 0.0
    item_spread: float = 0.0

    def of(self, split: Split) -> Split:
        """`split` with some of its train rows in a validation part."""
        return split.with_validation(seed=0, **asdict(self))


def public_split(
    name: str,
    arguments: Arguments,
    config: RecommenderConfig,
    grids: Mapping[str, Grid],
    *,
    quick: Mapping[str, Any],
    validation: Validation | None = None,
) -> None:
    """Measure ours over seeds and every baseline, tuned on a part of the training part.

    Args:
        name: of the benchmark.
        arguments: folder in LightGCN's format, seeds, threads.
        config: ours, chosen on validation.
        grids: baseline → grid; a baseline that is not named is left out.
        quick: dotted settings that make `--quick` quick.
        validation: how that part is drawn.
    """
    validation = validation or Validation()
    part = arguments.extra.part
    keep_buffers()
    result = Result(name, seeds=arguments.seeds)
    config = config.changed(**{"threads": arguments.threads, **(quick if arguments.quick else {})})
    prepared = prepare(import_dataset(arguments.data))
    log = prepared.log
    if log.split is None:
        raise SystemExit(f"{arguments.data} holds no train.txt and test.txt")
    split = fixed_split(log.user, log.item, log.split, n_users=log.n_users, n_items=log.n_items)
    if part == "validation":
        split = validation.of(split)
    popularity = np.asarray(split.interactions("train").sum(0), dtype=np.float64).ravel()
    measure = partial(evaluate, cases=split.cases(part), item_popularity=popularity, cutoffs=(20,))
    training = log.take(split.part == "train")
    ours = []
    for seed in range(arguments.seeds):
        trained = train(prepared, training, config.changed(seed=seed), reporter=Terminal())
        ours.append(measure(trained))
        _say(ours[-1], f"seed {seed}")
    for metric in METRICS:
        result.ours |= mean_and_spread([each.value(metric) for each in ours], metric)
    found = [ours[0]]
    for baseline, grid in grids.items():
        chosen = _first_of_each(grid) if arguments.quick else grid
        ranker, params = fit_tuned(FITS[baseline], chosen, split, validation)
        found.append(measure(ranker))
        _say(found[-1], str(dict(params)))
        result.baselines[baseline] = {each: found[-1].value(each) for each in METRICS} | {
            "params": dict(params)
        }
    _console.print(comparison_table(found, metrics=METRICS))
    result.details["part"] = part
    result.details["config"] = {
        name: yaml.safe_load(getattr(config, name).model_dump_json())
        for name in ("towers", "linear")
    }
    result.print()


def fit_tuned(
    fit: Callable[..., Ranker], grid: Grid, split: Split, validation: Validation
) -> tuple[Ranker, Mapping[str, Any]]:
    """Choose parameters on validation, then fit on the whole training part."""
    params: Mapping[str, Any] = {name: values[0] for name, values in grid.items()}
    if any(len(values) > 1 for values in grid.values()):
        inner = validation.of(split)
        matrix = inner.interactions("train")
        tuning = tune(partial(fit, matrix), grid, cases=inner.cases("validation"))
        params = tuning.params
        if edge := tuning.on_edge(grid):
            _console.print(f"[yellow]the best value of {edge} ends its range[/yellow]")
    return fit(split.interactions("train"), **params), params


def _popularity(matrix: Any) -> Ranker:
    return Popularity.fit(matrix)


FITS: dict[str, Callable[..., Ranker]] = {
    "popularity": _popularity,
    "itemknn": ItemKNN.fit,
    "ease": fit_ease,
    "ials": IALS.fit,
}


def _first_of_each(grid: Grid) -> Grid:
    return {name: values[:1] for name, values in grid.items()}


def _say(evaluation: Evaluation, note: str) -> None:
    figures = "  ".join(f"{name} {evaluation.value(name):.4f}" for name in METRICS)
    _console.print(f"{evaluation.ranker:<12} {figures}  {note}", highlight=False)
