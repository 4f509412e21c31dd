"""`errata train traffic` from captures to a published version."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_store.editions.traffic import MODEL_NAME, TrafficEdition
from feature_store.registry import Manifest, Registry
from feature_store.traffic.features import Tier
from feature_store.traffic.flows import FlowSettings
from models.allocator import keep_buffers
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter, Silent
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows, read_labelled_flows
from pipelines.traffic.evaluation import TrafficEvaluation, evaluate
from pipelines.traffic.labels import find_captures, find_labels
from pipelines.traffic.model_card import model_card
from pipelines.traffic.split import Split, honest_split
from pipelines.traffic.training import Parts, train

CARD, METRICS, CHECKPOINTS = "model_card.md", "metrics.json", "checkpoints"


@dataclass(frozen=True)
class Run:
    """What one run of the pipeline produced."""

    manifest: Manifest
    evaluation: TrafficEvaluation
    card: str
    edition: TrafficEdition
    parts: Parts


@dataclass(frozen=True)
class Measured:
    """What the protocol found over the seeds; nothing is published."""

    data: LabelledFlows
    split: Split
    evaluations: tuple[TrafficEvaluation, ...]
    card: str


def read(
    directory: Path, config: TrafficConfig, *, reporter: Reporter | None = None
) -> LabelledFlows:
    """The labelled flows of a data directory.

    Raises:
        FileNotFoundError: no capture is there.
        ValueError: nothing is labelled, or the labels cannot be read.
    """
    reporter = reporter or Silent()
    root = directory if directory.is_dir() else directory.parent
    data = read_labelled_flows(
        find_captures(directory),
        find_labels(root, table=config.labels.table, pattern=config.labels.pattern),
        root=root,
        settings=FlowSettings(kept_packets=config.network.packets),
        reporter=reporter,
    )
    for name, why in list(data.rejects.items())[:10]:
        reporter.say(f"rejected {name}: {why}")
    kept = data.keeping_classes(config.labels.least_flows)
    dropped = sorted(set(data.classes) - set(kept.classes))
    if dropped:
        reporter.say(
            f"too few flows for a class (labels.least_flows={config.labels.least_flows}): "
            + ", ".join(dropped)
        )
    if not len(data.classes):
        raise ValueError(
            f"{directory}: none of {len(data):,} flows has a label. A table names flows by their "
            "5-tuple, either way round, within begin and end where it has them, and captures by "
            "their file name; `errata flows CAPTURE --json` prints what its rows must match"
        )
    if len(kept.classes) < 2:
        raise ValueError(
            f"{directory} has {len(kept.classes)} classes with at least "
            f"{config.labels.least_flows} flows; a classifier needs two. Label by a folder per "
            "class, by a labels.csv of flows or MAC addresses, or by a *mac*.txt in each folder"
        )
    reporter.say(
        f"{len(kept):,} flows of {len(kept.classes)} classes in {len(kept.captures):,} captures; "
        f"{int((kept.label < 0).sum()):,} without a label"
    )
    return kept


def run(
    directory: Path,
    config: TrafficConfig,
    *,
    registry: Registry,
    runs_directory: Path,
    code_version: str,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Run:
    """`run_together` in one process."""
    done = run_together(
        ALONE,
        directory,
        config,
        registry=registry,
        runs_directory=runs_directory,
        code_version=code_version,
        device=device,
        reporter=reporter,
    )
    assert done is not None  # this process leads
    return done


def run_together(
    group: Group,
    directory: Path,
    config: TrafficConfig,
    *,
    registry: Registry,
    runs_directory: Path,
    code_version: str,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Run | None:
    """Read, split, train, evaluate beside the baselines, and publish.

    A run that was killed goes on where it stopped when it is started again with the same data and
    configuration.

    Args:
        group: the processes that train together; each one reads the captures.
        directory: captures and labels; see `labels.find_labels`.
        config: everything else.
        registry: where the version goes; no alias is moved.
        runs_directory: holds a directory of checkpoints per data and configuration; all processes
            of the group must see it, for all of them go on from the same epoch.
        code_version: kept in the manifest.
        device: where the network is trained.
        reporter: progress.

    Returns:
        what the first process of the group published; None in the others.
    """
    reporter = reporter if reporter is not None and group.leads else Silent()
    return run_on(
        group,
        read(directory, config, reporter=reporter),
        config,
        registry=registry,
        runs_directory=runs_directory,
        code_version=code_version,
        device=device,
        reporter=reporter,
    )


def run_on(
    group: Group,
    data: LabelledFlows,
    config: TrafficConfig,
    *,
    registry: Registry,
    runs_directory: Path,
    code_version: str,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Run | None:
    """`run_together` on flows that are read already.

    Raises:
        ValueError: the split leaves a part empty.
    """
    reporter = reporter or Silent()
    keep_buffers()
    split = honest_split(data, shares=config.split.shares, gap_s=config.split.gap_s)
    sizes = [len(each) for each in (split.train, split.validation, split.test)]
    if not all(sizes):
        raise ValueError(
            "the split leaves {} flows to train on, {} to decide on and {} to test on: give more "
            "recordings of each class".format(*sizes)
        )
    parts = Parts.of(data, split)
    fingerprint = data.fingerprint()
    key = run_key(fingerprint, config)
    work = runs_directory / key
    edition = train(
        parts,
        data.classes,
        config,
        device=device,
        work_directory=work / CHECKPOINTS,
        key=key,
        reporter=reporter,
        group=group,
    )
    if not group.leads:
        return None
    found = evaluate(
        edition, parts, config, seed=config.seed, baseline_tiers=(config.tier,), reporter=reporter
    )
    card = model_card(data, split, [found], tier=config.tier)
    with tempfile.TemporaryDirectory(prefix="errata-") as staging:
        edition.save(Path(staging))
        (Path(staging) / CARD).write_text(card)
        (Path(staging) / METRICS).write_text(json.dumps(found.to_json(), indent=2))
        manifest = registry.publish(
            MODEL_NAME,
            Path(staging),
            data_fingerprint=fingerprint,
            code_version=code_version,
            config=config.model_dump(mode="json"),
            metrics=headline(found, config.tier) | trained_until(parts),
        )
    shutil.rmtree(work, ignore_errors=True)
    return Run(manifest, found, card, edition, parts)


def measure(
    directory: Path,
    config: TrafficConfig,
    *,
    seeds: int,
    tiers: tuple[Tier, ...] = (Tier.T0, Tier.T1),
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Measured:
    """The honest protocol over several seeds, at several tiers; nothing is published."""
    reporter = reporter or Silent()
    keep_buffers()
    data = read(directory, config, reporter=reporter)
    split = honest_split(data, shares=config.split.shares, gap_s=config.split.gap_s)
    parts = Parts.of(data, split)
    evaluations = []
    for seed in range(config.seed, config.seed + seeds):
        reporter.say(f"seed {seed}")
        edition = train(parts, data.classes, config, seed=seed, device=device, reporter=reporter)
        evaluations.append(
            evaluate(edition, parts, config, seed=seed, tiers=tiers, reporter=reporter)
        )
    card = model_card(data, split, evaluations, tier=config.tier)
    return Measured(data, split, tuple(evaluations), card)


def headline(found: TrafficEvaluation, tier: Tier) -> dict[str, Any]:
    """The figures that stand in the manifest."""
    ours = found.scores[tier.value]["errata"]
    return {
        "tier": tier.value,
        "macro_f1": round(ours.macro_f1, 4),
        "accuracy": round(ours.accuracy, 4),
        "ece": round(ours.ece, 4),
        "leak_drop": round(ours.leak_drop, 2),
        "flows": found.flows,
        "baselines": {
            name: round(each.macro_f1, 4)
            for name, each in found.scores[tier.value].items()
            if name != "errata"
        },
    }


def trained_until(parts: Parts) -> dict[str, str]:
    """When the newest flow that was trained or decided on began."""
    newest = max(
        (int(part.flows.flow["first_ns"].max()) for part in (parts.training, parts.validation)
         if len(part.flows)),
        default=0,
    )  # fmt: skip
    return {
        "trained_until": datetime.fromtimestamp(newest / 1e9, UTC).isoformat(timespec="seconds")
    }


def run_key(fingerprint: str, config: TrafficConfig) -> str:
    """Names a data set and a configuration."""
    text = fingerprint + config.model_dump_json()
    return f"traffic-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
