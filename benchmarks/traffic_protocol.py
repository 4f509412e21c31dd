"""What the two traffic benchmarks share: the honest protocol over seeds, and its last line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Result, mean_and_spread, parse
from errata.cli.options import parse_overrides
from feature_store.traffic.features import Tier
from models.allocator import keep_buffers
from pipelines.progress import Reporter, Terminal
from pipelines.traffic.baselines import Choices
from pipelines.traffic.config import LabelConfig, TrafficConfig
from pipelines.traffic.dataset import LabelledFlows, LabelledPart
from pipelines.traffic.evaluation import Score, TrafficEvaluation, evaluate
from pipelines.traffic.metrics import macro_f1
from pipelines.traffic.model_card import comparison_rows, model_card
from pipelines.traffic.pipeline import read
from pipelines.traffic.pool import Pool, choose_pool
from pipelines.traffic.split import honest_split
from pipelines.traffic.training import Parts, train

FIGURES = (
    "macro_f1", "accuracy", "ece", "capture_vote", "leak_drop", "auroc_unknown", "fpr95_unknown",
)  # fmt: skip
QUICK: dict[str, Any] = {
    "pretraining.epochs": 1,
    "network.epochs": 4,
    "network.encoder.d_model": 32,
    "network.encoder.layers": 1,
    "tree.rounds": 60,
    "evaluation.resamples": 100,
    "evaluation.left_out_share": 0.0,
}
# What each part is worth: the same training with one thing changed.
ARMS: dict[str, dict[str, Any]] = {
    "no_pretraining": {"pretraining.enabled": False},
    "frozen_encoder": {"network.frozen": True, "tree.enabled": False},
    "no_augmentation": {
        "augmentation.cut_share": 0.0,
        "augmentation.gap_scale": 0.0,
        "augmentation.gap_noise": 0.0,
        "augmentation.hidden_fields": 0.0,
        "augmentation.size_noise": 0.0,
        "tree.beginning_weight": 0.0,
    },
    "mamba2": {"network.encoder.mixer": "mamba2"},
    "raw_bytes_T2": {"tier": "T2", "network.byte_packets": 5},
}
LABEL_SHARES = {"labels_10_percent": 0.1, "labels_1_percent": 0.01}


def run(
    name: str,
    description: str | None,
    *,
    data: str,
    settings: Mapping[str, Any],
) -> None:
    """Measure over the seeds, print the table, and the last line."""
    known = [*ARMS, *LABEL_SHARES]
    options: dict[str, dict[str, Any]] = {
        "--tiers": {
            "nargs": "*",
            "default": ["T0"],
            "choices": ["T0"],
            "help": "further tiers, with the first seed",
        },
        "--set": {
            "nargs": "*",
            "default": [],
            "metavar": "KEY=VALUE",
            "help": "change settings of the training, such as network.epochs=5",
        },
        "--arms": {
            "nargs": "*",
            "default": [],
            "choices": known,
            "metavar": "ARM",
            "help": f"also train with one part changed, with one seed: {', '.join(known)}",
        },
    }
    arguments = parse(description, data=data, seeds=5, options=options)
    result = Result(name, seeds=arguments.seeds)
    keep_buffers()
    chosen = {
        "threads": arguments.threads,
        "evaluation.left_out_share": 0.25,
        **settings,
        **(QUICK if arguments.quick else {}),
        **parse_overrides(arguments.extra.set),
    }
    config = TrafficConfig().changed(**chosen)
    reporter = Terminal()
    found = _read(arguments.data, config, reporter)
    split = honest_split(found, shares=config.split.shares, gap_s=config.split.gap_s)
    parts = Parts.of(found, split)
    # Whatever is chosen, the pool and the baselines' parameters, is chosen with the first seed.
    pool = choose_pool(parts.known, found.classes, config, seed=0, device="cpu", reporter=reporter)
    choices: Choices = {}
    tiers = () if arguments.quick else tuple(map(Tier, arguments.extra.tiers))
    evaluations: list[TrafficEvaluation] = []
    for seed in range(arguments.seeds):
        reporter.say(f"seed {seed + 1} of {arguments.seeds}")
        evaluations.append(
            _evaluated(
                parts,
                found.classes,
                config if seed == 0 else _further(config, pool),
                seed=seed,
                pool=pool,
                choices=choices,
                tiers=tiers if seed == 0 else (),
                reporter=reporter,
            )
        )
        Console(stderr=True).print(_table(evaluations))
    tier = config.tier.value
    result.ours = _figures([each.scores[tier]["errata"] for each in evaluations])
    result.baselines = {
        baseline: _figures([each.scores[tier][baseline] for each in evaluations])
        for baseline in config.evaluation.baselines
    }
    result.details = {
        "tier": tier,
        "set": arguments.extra.set,
        "flows": {"train": len(split.train), "validation": len(split.validation),
                  "test": len(split.test)},
        "redundancy": split.redundancy,
        "duplicates_left_out": split.duplicates,
        "straddling_left_out": split.straddling,
        "parts": {
            part: _figures(
                [each.scores[tier][part] for each in evaluations if part in each.scores[tier]]
            )
            for part in ("network", "tree", "forest")
            if part in evaluations[0].scores[tier]
        },
        "tiers": _tiers(evaluations),
        "pool": {
            "network_weight": pool.decision.network_weight,
            "network_gain": pool.network_gain,
            "network_gain_standard_error": pool.standard_error,
            "forest_share": pool.decision.forest_share,
            "forest_gain": pool.forest_gain,
            "rounds": pool.rounds,
        },
        "gain_over_lightgbm_ci": [each.scores[tier]["lightgbm"].gain_ci for each in evaluations],
        "accuracy_after_packets": {
            count: float(np.mean([each.by_packets[count] for each in evaluations]))
            for count in evaluations[0].by_packets
        },
        "arms": _arms(arguments.extra.arms, parts, found.classes, config, reporter),
    }  # fmt: skip
    Console(stderr=True).print(model_card(found, split, evaluations, tier=config.tier))
    result.print()


def _read(directory: Path, config: TrafficConfig, reporter: Reporter) -> LabelledFlows:
    """Flows of a set; one too small for the benchmark's least number of flows has the usual one."""
    usual = LabelConfig().least_flows
    try:
        try:
            return read(directory, config, reporter=reporter)
        except ValueError:
            if config.labels.least_flows == usual:
                raise
            return read(
                directory, config.changed(**{"labels.least_flows": usual}), reporter=reporter
            )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _further(config: TrafficConfig, pool: Pool) -> TrafficConfig:
    """Seeds after the first leave out unknown classes, and a network without a say."""
    config = config.changed(**{"evaluation.left_out_share": 0.0})
    return config if pool.decision.network_weight else config.with_idle_network()


def _evaluated(
    parts: Parts,
    classes: tuple[str, ...],
    config: TrafficConfig,
    *,
    seed: int,
    pool: Pool,
    choices: Choices,
    tiers: tuple[Tier, ...],
    reporter: Reporter,
) -> TrafficEvaluation:
    edition = train(parts, classes, config, seed=seed, reporter=reporter, pool=pool)
    found = evaluate(
        edition,
        parts,
        config,
        seed=seed,
        tiers=tiers,
        baseline_tiers=tiers,
        reporter=reporter,
        choices=choices,
    )
    if seed > 0 and pool.decision.network_weight == 0:
        del found.scores[config.tier.value]["network"]  # it was hardly trained
    return found


def _figures(scores: Sequence[Score]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for figure in FIGURES:
        values = [getattr(each, figure) for each in scores]
        measured = [value for value in values if value is not None]
        if measured:
            figures |= mean_and_spread(measured, figure)
    return figures


def _tiers(evaluations: Sequence[TrafficEvaluation]) -> dict[str, dict[str, dict[str, float]]]:
    """Macro F1 of every model at every tier."""
    return {
        tier: {
            model: mean_and_spread(
                [
                    each.scores[tier][model].macro_f1
                    for each in evaluations
                    if model in each.scores.get(tier, {})
                ],
                "macro_f1",
            )
            for model in models
        }
        for tier, models in evaluations[0].scores.items()
    }


def _arms(
    names: Sequence[str],
    parts: Parts,
    classes: tuple[str, ...],
    config: TrafficConfig,
    reporter: Reporter,
) -> dict[str, dict[str, float]]:
    """Macro F1 with one part changed: of the whole, and of the network alone."""
    found = {}
    for name in names:
        reporter.say(f"arm {name}")
        share = LABEL_SHARES.get(name)
        chosen = parts if share is None else _fewer_labels(parts, share, seed=config.seed)
        edition = train(chosen, classes, config.changed(**ARMS.get(name, {})), reporter=reporter)
        label, flows = parts.test.label, parts.test.flows
        alone = edition.with_say(network_weight=1, forest_share=0)
        found[name] = {
            key: macro_f1(label, each.probability(flows).argmax(axis=1), classes=len(classes))
            for key, each in (("macro_f1", edition), ("network_macro_f1", alone))
        }
    return found


def _fewer_labels(parts: Parts, share: float, *, seed: int) -> Parts:
    """A share of each class's training and validation labels, at least two of each: trees learn
    from both. Pre-training keeps every flow."""
    rng = np.random.default_rng(seed)

    def some(part: LabelledPart) -> LabelledPart:
        rows = [
            rng.permutation(np.flatnonzero(part.label == each))[
                : max(2, round(share * (part.label == each).sum()))
            ]
            for each in np.unique(part.label)
        ]
        return part[np.sort(np.concatenate(rows))]

    return Parts(some(parts.training), some(parts.validation), parts.test, parts.unlabelled)


def _table(evaluations: Sequence[TrafficEvaluation]) -> Table:
    header, rows = comparison_rows(evaluations)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    return table
