"""The comparison of rankers as a terminal table, as plain data for JSON, and as one HTML page.

All three show the evaluations in the order given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.pages import colour, legend, render, style, svg
from pipelines.recommender.cases import ALL
from pipelines.recommender.evaluation import Evaluation, PairedInterval

LOWER_IS_BETTER = ("gini",)
LEVEL_LABELS = 5  # more names of slices than these overlap below a plot


@dataclass(frozen=True)
class Cell:
    """One number of a comparison; `best` among its column's rankers, ties included."""

    text: str
    best: bool


@dataclass(frozen=True)
class Row:
    """One ranker in one slice."""

    ranker: str
    cells: tuple[Cell, ...]


def default_metrics(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """All metrics at the second smallest cutoff, or at the only one, and the reciprocal rank."""
    cutoffs = sorted(evaluations[0].cutoffs)
    suffix = f"@{cutoffs[min(1, len(cutoffs) - 1)]}"
    names = evaluations[0].slices[ALL].metrics
    return tuple(name for name in names if name.endswith(suffix) or name.startswith("mrr"))


def comparison_table(
    evaluations: Sequence[Evaluation],
    *,
    metrics: Sequence[str] | None = None,
    slice_name: str = ALL,
) -> Table:
    """Rankers down, metrics across, the best of each in bold; 80 columns hold all names whole.

    Raises:
        ValueError: none at all.
    """
    _check(evaluations)
    metrics = metrics or default_metrics(evaluations)
    asked = len(evaluations[0].slices[slice_name].rows)
    table = Table(
        title=f"{slice_name}: {asked:,} cases",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("ranker", overflow="fold", min_width=10)
    for metric in metrics:
        heading = metric.replace("@", "\n@")
        widest = max(map(len, heading.split("\n")))
        table.add_column(heading, justify="right", min_width=max(widest, 6))
    for row in _rows(evaluations, metrics=metrics, slice_name=slice_name):
        cells = [f"[bold]{cell.text}[/]" if cell.best else cell.text for cell in row.cells]
        table.add_row(row.ranker, *cells)
    return table


def to_json(
    evaluations: Sequence[Evaluation], *, intervals: Mapping[str, PairedInterval] | None = None
) -> dict[str, Any]:
    """Every mean, overall number and interval as plain data: {rankers: {name: {slices: …}}, …}.

    Numbers that do not exist (the recall of a popularity group without targets) become None.
    """
    _check(evaluations)
    return {
        "rankers": {
            evaluation.ranker: {
                "seconds": evaluation.seconds,
                "slices": {
                    name: {"cases": len(part.rows)} | {m: part.value(m) for m in part.metrics}
                    for name, part in evaluation.slices.items()
                },
                "popularity_deciles": {
                    "cutoff": evaluation.deciles.cutoff,
                    "recall": [_finite(value) for value in evaluation.deciles.recall],
                    "exposure": [_finite(value) for value in evaluation.deciles.exposure],
                },
            }
            for evaluation in evaluations
        },
        "intervals": {name: asdict(interval) for name, interval in (intervals or {}).items()},
    }


def write_html(
    path: Path,
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    metrics: Sequence[str] | None = None,
    intervals: Mapping[str, PairedInterval] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write one page that needs no network: tables and plots inline, light and dark.

    `intervals`: what is compared ("ours over ease") to its interval. `notes`: facts for the page's
    head, such as the data set, the split and the device.
    """
    _check(evaluations)
    metrics = metrics or default_metrics(evaluations)
    with style():
        plots = {
            "Accuracy per slice": _accuracy_plot(evaluations, metrics=metrics),
            "Whose targets are found": _decile_plot(evaluations, values="recall"),
            "What is shown": _decile_plot(evaluations, values="exposure"),
            "Coverage": _coverage_plot(evaluations),
        }
    page = render(
        "pipelines.recommender",
        "report.html.j2",
        title=title,
        notes=notes or {},
        metrics=metrics,
        tables={
            name: {
                "cases": len(part.rows),
                "rows": _rows(
                    [found for found in evaluations if name in found.slices],
                    metrics=metrics,
                    slice_name=name,
                ),
            }
            for name, part in evaluations[0].slices.items()
        },
        intervals=intervals or {},
        plots=plots,
    )
    path.write_text(page, encoding="utf-8")


def _check(evaluations: Sequence[Evaluation]) -> None:
    if not evaluations:
        raise ValueError("no evaluation to report")
    names = [evaluation.ranker for evaluation in evaluations]
    if len({*names}) < len(names):
        raise ValueError(f"rankers of the same name cannot be told apart: {names}")


def _rows(
    evaluations: Sequence[Evaluation], *, metrics: Sequence[str], slice_name: str
) -> list[Row]:
    values = np.array([[e.value(m, slice_name=slice_name) for m in metrics] for e in evaluations])
    sign = np.array([-1.0 if m.startswith(LOWER_IS_BETTER) else 1.0 for m in metrics])
    best = values == (sign * (sign * values).max(axis=0))
    if len(values) > 1:
        best &= (values != values[0]).any(axis=0)  # nobody is best where all are alike
    return [
        Row(
            ranker=evaluation.ranker,
            cells=tuple(
                Cell(text=_format(value, metric), best=bool(is_best))
                for metric, value, is_best in zip(metrics, line, marks, strict=True)
            ),
        )
        for evaluation, line, marks in zip(evaluations, values, best, strict=True)
    ]


def _format(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric.startswith("novelty") else f"{value:.4f}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _accuracy_plot(evaluations: Sequence[Evaluation], *, metrics: Sequence[str]) -> str:
    shown = [m for m in metrics if m.startswith(("recall", "ndcg"))] or list(metrics[:2])
    slices = list(evaluations[0].slices)
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown)))
    width = 0.8 / len(evaluations)
    for panel, metric in zip(panels, shown, strict=True):
        for place, evaluation in enumerate(evaluations):
            heights = [
                evaluation.value(metric, slice_name=name) if name in evaluation.slices else 0.0
                for name in slices
            ]
            left = np.arange(len(slices)) - 0.4 + width * (place + 0.5)
            panel.bar(left, heights, width, color=colour(place), label=evaluation.ranker)
        panel.set_xticks(range(len(slices)), slices)
        if len(slices) > LEVEL_LABELS:
            panel.tick_params(axis="x", rotation=90)
        panel.set_title(metric)
    legend(figure, panels[0])
    return svg(figure, "Accuracy of every ranker, per slice")


def _decile_plot(evaluations: Sequence[Evaluation], *, values: str) -> str:
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    panel = figure.subplots()
    for place, evaluation in enumerate(evaluations):
        panel.plot(
            range(1, 11),
            getattr(evaluation.deciles, values),
            marker="o",
            markersize=4,
            color=colour(place),
            label=evaluation.ranker,
        )
    cutoff = evaluations[0].deciles.cutoff
    label = f"recall@{cutoff}" if values == "recall" else f"share of top {cutoff}"
    panel.set(xticks=range(1, 11), xlabel="items, least to most popular tenth", ylabel=label)
    legend(figure, panel)
    return svg(figure, f"{label} by tenth of item popularity")


def _coverage_plot(evaluations: Sequence[Evaluation]) -> str:
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    panel = figure.subplots()
    cutoffs = sorted(evaluations[0].cutoffs)
    for place, evaluation in enumerate(evaluations):
        shares = [evaluation.value(f"coverage@{k}") for k in cutoffs]
        panel.plot(cutoffs, shares, marker="o", color=colour(place), label=evaluation.ranker)
    panel.set(xticks=cutoffs, xlabel="list length", ylabel="share shown")
    panel.set_ylim(bottom=0)
    legend(figure, panel)
    return svg(figure, "Share of the candidates that appear in some list, by list length")
