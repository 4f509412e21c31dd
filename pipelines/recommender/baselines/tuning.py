"""Parameters chosen on validation cases, the same way for every baseline."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.recommender.cases import EvaluationCases
from pipelines.recommender.evaluation import Ranker, evaluate


@dataclass(frozen=True)
class Trial:
    """One set of parameters, what it reached on validation, and how long it took to fit."""

    params: Mapping[str, Any]
    value: float
    fit_seconds: float


@dataclass(frozen=True)
class Tuning:
    """All trials of one search, in the order in which they ran."""

    metric: str
    tried: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The highest value; the earliest of equals."""
        return max(self.tried, key=lambda trial: trial.value)

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the best trial."""
        return self.best.params

    def on_edge(self, grid: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
        """Parameters whose best value ends a range of three or more: the grid may be too small."""
        return tuple(
            name
            for name, values in grid.items()
            if len(values) >= 3 and self.params[name] in (values[0], values[-1])
        )


def tune(
    fit: Callable[..., Ranker],
    grid: Mapping[str, Sequence[Any]],
    *,
    cases: EvaluationCases,
    metric: str = "ndcg@20",
) -> Tuning:
    """Fit with every combination of the grid's values and measure each on the validation cases.

        tune(partial(EASE.fit, train), {"regularisation": [100, 300, 1000]}, cases=validation)

    `metric` is one of accuracy with a cutoff, such as "recall@20". Raises ValueError for a
    metric without one, and for an empty grid.
    """
    _, _, cutoff = metric.partition("@")
    if not cutoff.isdigit():
        raise ValueError(f"metric {metric!r} has no cutoff such as @20")
    # Accuracy alone is looked at here; popularity matters to novelty only.
    popularity = np.ones(cases.n_items)
    trials = []
    for values in itertools.product(*grid.values()):
        params = dict(zip(grid, values, strict=True))
        started = time.perf_counter()
        ranker = fit(**params)
        fit_seconds = time.perf_counter() - started
        found = evaluate(ranker, cases, item_popularity=popularity, cutoffs=(int(cutoff),))
        trials.append(Trial(params=params, value=found.value(metric), fit_seconds=fit_seconds))
    if not trials:
        raise ValueError(f"a grid without a value for some parameter: {dict(grid)}")
    return Tuning(metric=metric, tried=tuple(trials))
