"""An evaluation of the memory as a terminal table, as plain data for JSON, and as one HTML page."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.memory.evaluation import LOWER_IS_BETTER, MemoryEvaluation
from pipelines.pages import colour, legend, render, style, svg


def table(found: MemoryEvaluation) -> Table:
    """Arms down, metrics across, the best of each in bold; then the paired gain over the base."""
    main = found.metrics[0]
    shown = Table(
        title=f"{found.subject}: {found.events:,} events, labels {found.delay:,} events late",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("arm")
    for metric in found.metrics:
        shown.add_column(metric, justify="right")
    shown.add_column(f"{main} over base [95 %]", justify="right")
    for row in rows(found):
        cells = [f"[bold]{text}[/]" if best else text for text, best in row["cells"]]
        shown.add_row(row["arm"], *cells, row["gain"].replace("[", r"\["))
    return shown


def rows(found: MemoryEvaluation) -> list[dict[str, Any]]:
    """One per arm: name, (text, whether it is the best) per metric, gain as text."""
    best = {
        metric: (min if metric in LOWER_IS_BETTER else max)(a.total[metric] for a in found.arms)
        for metric in found.metrics
    }
    return [
        {
            "arm": arm.name,
            "cells": [
                (f"{arm.total[m]:.4f}", len(found.arms) > 1 and arm.total[m] == best[m])
                for m in found.metrics
            ],
            "gain": ""
            if arm.gain is None
            else f"{arm.gain.mean:+.4f} [{arm.gain.lower:+.4f}, {arm.gain.upper:+.4f}]",
        }
        for arm in found.arms
    ]


def to_json(found: MemoryEvaluation) -> dict[str, Any]:
    """Every figure, with None for what does not exist (the AUC of a window without a no)."""
    return {
        "model": found.subject,
        "events": found.events,
        "delay": found.delay,
        "notes": found.notes,
        "memory": verdict(found),
        "policy": found.policy.model_dump(mode="json"),
        "windows_begin": [_when(each) for each in found.begins_s],
        "arms": {
            arm.name: {name: _finite(value) for name, value in arm.total.items()}
            | {
                "gain": None
                if arm.gain is None
                else {
                    "metric": found.metrics[0],
                    "mean": _finite(arm.gain.mean),
                    "interval": [_finite(arm.gain.lower), _finite(arm.gain.upper)],
                },
                "windows": {name: list(map(_finite, each)) for name, each in arm.windows.items()},
            }
            for arm in found.arms
        },
    }


def verdict(found: MemoryEvaluation) -> str:
    """What the choice of the policy came to."""
    if found.tuning is None:
        return "given" if found.policy.enabled else "off: as asked for"
    gain = found.tuning.best.gain
    measure = "log loss saved" if found.tuning.best.auc is None else "AUC"
    what = f"{measure} {gain.mean:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}]"
    if found.policy.enabled:
        return f"on: the first events' best candidate is worth {what}"
    return f"off: no candidate's gain on the first events is certain (the best: {what})"


def write_html(path: Path, found: MemoryEvaluation, *, title: str) -> None:
    """Write one page that needs no network: the table, and every metric over time."""
    with style():
        plots = {f"{metric} over time": _over_time(found, metric) for metric in found.metrics}
    page = render(
        "pipelines.memory",
        "memory.html.j2",
        title=title,
        notes=found.notes
        | {"memory": verdict(found), "delay of labels": f"{found.delay:,} events"},
        metrics=found.metrics,
        events=found.events,
        rows=rows(found),
        plots=plots,
    )
    path.write_text(page, encoding="utf-8")


def _over_time(found: MemoryEvaluation, metric: str) -> str:
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    panel = figure.subplots()
    times = [datetime.fromtimestamp(each, UTC) for each in found.begins_s]
    for place, arm in enumerate(found.arms):
        panel.plot(
            times,  # type: ignore[arg-type]  # matplotlib takes dates
            arm.windows[metric],
            marker="o",
            markersize=4,
            color=colour(place),
            label=arm.name,
        )
    panel.set(ylabel=metric, xlabel="begin of the window")
    figure.autofmt_xdate(rotation=30)
    legend(figure, panel)
    return svg(figure, f"{metric} of every arm over time")


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
