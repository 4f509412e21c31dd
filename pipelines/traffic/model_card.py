"""The model card: what was measured and how, as Markdown that stands beside the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_store.traffic.features import Tier
from pipelines.traffic.dataset import LabelledFlows
from pipelines.traffic.evaluation import Score, TrafficEvaluation
from pipelines.traffic.split import Split

NAMES = {
    "errata": "Errata",
    "network": "· Mamba alone",
    "tree": "· boosted trees alone",
    "forest": "· random forest alone",
    "lightgbm": "LightGBM",
    "random_forest": "random forest",
    "knn": "k-NN",
    "port_rule": "port rule",
    "majority": "majority",
}
TIERS = {
    Tier.T0.value: "T0 (sizes, directions, gaps)",
    Tier.T1.value: "T1 (T0 and header fields)",
    Tier.T2.value: "T2 (T1 and raw bytes; leaks)",
}


def comparison_rows(
    evaluations: Sequence[TrafficEvaluation],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the protocol's table: models down, tiers across, over the seeds."""
    tiers = [tier for tier in TIERS if tier in evaluations[0].scores]
    header = ["model"]
    for tier in tiers:
        header += [f"{tier} macro F1", f"{tier} accuracy", f"{tier} ECE"]
    rows = []
    for name, shown in NAMES.items():
        cells = [shown]
        for tier in tiers:
            found = [each.scores.get(tier, {}).get(name) for each in evaluations]
            scores = [each for each in found if each is not None]
            cells += (
                [
                    spread([each.macro_f1 for each in scores]),
                    spread([each.accuracy for each in scores]),
                    spread([each.ece for each in scores]),
                ]
                if scores
                else ["", "", ""]
            )
        if any(cells[1:]):
            rows.append(tuple(cells))
    return tuple(header), rows


def model_card(
    data: LabelledFlows, split: Split, evaluations: Sequence[TrafficEvaluation], *, tier: Tier
) -> str:
    """Markdown."""
    first = evaluations[0]
    ours = [each.scores[tier.value]["errata"] for each in evaluations]
    header, rows = comparison_rows(evaluations)
    counts = np.bincount(data.label[data.label >= 0], minlength=len(data.classes))
    packets = ", ".join(
        f"{count}: {spread([each.by_packets[count] for each in evaluations])}"
        for count in first.by_packets
    )
    lines = [
        "# Traffic classifier",
        "",
        f"Tier {TIERS[tier.value]}. {len(data.classes)} classes, {int(counts.sum()):,} labelled "
        f"flows in {len(data.captures):,} captures.",
        "",
        "## How it was measured",
        "",
        f"{len(split.train):,} flows train, {len(split.validation):,} validate, "
        f"{len(split.test):,} test. The parts are recordings in order of time (a capture, cut "
        "where its class is silent); a class with too few recordings is cut by time. "
        f"{split.straddling:,} flows whose conversation began in an earlier part and "
        f"{split.duplicates:,} exact duplicates were left out. "
        f"{split.redundancy:.0%} of the test flows have the sizes and header fields of a "
        "training flow. "
        f"{_seeds(len(evaluations))}",
        "",
        _markdown(header, rows),
        "",
        "T2 shows how much raw bytes leak about hosts; it is never a headline.",
        "",
        "| | |",
        "|---|---|",
        f"| accuracy after packets | {packets} |",
        "| accuracy of one verdict per capture and class | "
        f"{spread([each.capture_vote for each in ours])} |",
        "| macro F1 lost when every protected field is random, points | "
        f"{spread([each.leak_drop for each in ours], digits=2)} |",
    ]
    known = [each.auroc_unknown for each in ours if each.auroc_unknown is not None]
    if known:
        far = [each.fpr95_unknown for each in ours if each.fpr95_unknown is not None]
        lines += [
            f"| AUROC, classes left out of training | {spread(known)} |",
            f"| FPR95 of the same | {spread(far)} |",
        ]
    rival = _interval(first.scores[tier.value].get("lightgbm"))
    if rival:
        lines += [f"| gain over LightGBM, 95 % interval, first seed | {rival} |"]
    lines += ["", "## Classes", "", "| class | flows | recordings | F1 |", "|---|--:|--:|--:|"]
    for row, name in enumerate(data.classes):
        f1 = spread([each.class_f1[name] for each in evaluations])
        lines.append(f"| {name} | {counts[row]:,} | {split.groups[name]} | {f1} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], *, digits: int = 3) -> str:
    """Mean and, of several, standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _seeds(count: int) -> str:
    return "One seed." if count == 1 else f"{count} seeds, mean ± standard deviation."


def _interval(score: Score | None) -> str:
    if score is None or score.gain_ci is None:
        return ""
    low, high = score.gain_ci
    return f"{low:+.3f} to {high:+.3f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
