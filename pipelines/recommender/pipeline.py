"""`errata train recommender` from the tables to a published version."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.recommender import MODEL_NAME
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.log import InteractionLog
from feature_store.pseudonyms import key_of
from feature_store.registry import Manifest, Registry
from models.allocator import keep_buffers
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter, Silent
from pipelines.recommender.baselines import IALS, ItemKNN, Popularity, TextKNN, fit_ease
from pipelines.recommender.cases import (
    EvaluationCases,
    Split,
    fixed_split,
    leave_last_out,
    temporal_split,
)
from pipelines.recommender.config import RecommenderConfig, SplitConfig
from pipelines.recommender.evaluation import Evaluation, Ranker, evaluate
from pipelines.recommender.preparation import Prepared, prepare
from pipelines.recommender.report import to_json, write_html
from pipelines.recommender.training import Trained, train, train_together

REPORT, METRICS, CHECKPOINTS = "report.html", "metrics.json", "checkpoints"
HEADLINE = ("recall@20", "ndcg@20", "hr@10", "mrr@100", "coverage@20")
MAX_TYPE_SLICES = 8  # a report of more is no longer read


@dataclass(frozen=True)
class Run:
    """What one run of the pipeline produced.

    Attributes:
        prepared, cases: what was measured on. held_out: (interactions,) which no training saw.
    """

    manifest: Manifest
    evaluations: tuple[Evaluation, ...]
    report: Path
    prepared: Prepared
    cases: EvaluationCases
    held_out: NDArray[np.bool_]


def run(
    dataset: Dataset,
    config: RecommenderConfig,
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
        dataset,
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
    dataset: Dataset,
    config: RecommenderConfig,
    *,
    registry: Registry,
    runs_directory: Path,
    code_version: str,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Run | None:
    """Prepare, train, evaluate against the baselines, and publish.

    A run that was killed goes on where it stopped when it is started again with the same data and
    configuration.

    Args:
        group: the processes that train together; each one reads the tables.
        dataset: the tables.
        config: everything else.
        registry: where the version goes; no alias is moved.
        runs_directory: holds a directory per data and configuration: checkpoints and the report;
            all processes of the group must see it, for all of them go on from the same epoch.
        code_version: kept in the manifest.
        device: where the index is built.
        reporter: progress.

    Returns:
        what the first process of the group published; None in the others.
    """
    reporter = reporter if reporter is not None and group.leads else Silent()
    keep_buffers()
    fingerprint = dataset.fingerprint()
    key = run_key(fingerprint, config)
    work = runs_directory / key
    prepared = prepare(dataset)
    split = make_split(prepared, config.split)
    cases = held_out_cases(prepared, split)
    log = prepared.log
    reporter.say(
        f"{len(log):,} interactions of {log.n_users:,} users with {log.n_items:,} items; "
        f"{int((split.part == 'test').sum()):,} held out"
    )
    trained = train_together(
        group,
        prepared,
        log.take(split.part != "test"),
        config,
        work_directory=work / CHECKPOINTS,
        key=key,
        device=device,
        reporter=reporter,
    )
    if trained is None:
        return None
    evaluations = compare(trained, prepared, split, cases, config, reporter)
    work.mkdir(parents=True, exist_ok=True)
    write_html(
        work / REPORT,
        evaluations,
        title="Recommender: held-out evaluation",
        notes=facts(prepared, split, config, fingerprint),
    )
    metrics = to_json(evaluations)
    (work / METRICS).write_text(json.dumps(metrics, indent=2))
    with tempfile.TemporaryDirectory(prefix="errata-") as staging:
        reporter.say("drawing the map of the item space")
        trained.edition.with_map(seed=config.seed).save(Path(staging))
        for name in (REPORT, METRICS):
            shutil.copy(work / name, staging)
        manifest = registry.publish(
            MODEL_NAME,
            Path(staging),
            data_fingerprint=fingerprint,
            code_version=code_version,
            config=config.model_dump(mode="json"),
            user_key=key_of(dataset.interactions["user_id"]),
            metrics=headline(evaluations[0])
            | {"graph_edges": trained.graph.counts()}
            | trained_until(log.take(split.part != "test")),
        )
    shutil.rmtree(work / CHECKPOINTS, ignore_errors=True)
    held_out = split.part == "test"
    return Run(manifest, tuple(evaluations), work / REPORT, prepared, cases, held_out)


def evaluate_protocol(
    dataset: Dataset, config: RecommenderConfig, *, reporter: Reporter | None = None
) -> list[Evaluation]:
    """Train on what `config.split` leaves and measure on what it holds out; publish nothing."""
    reporter = reporter or Silent()
    prepared = prepare(dataset)
    split = make_split(prepared, config.split)
    cases = held_out_cases(prepared, split)
    known = prepared.log.take(split.part != "test")
    trained = train(prepared, known, config, reporter=reporter)
    return compare(trained, prepared, split, cases, config, reporter)


def facts(
    prepared: Prepared, split: Split, config: RecommenderConfig, fingerprint: str
) -> dict[str, str]:
    """What a reader must know of the figures: the data, and how they were held out."""
    log = prepared.log
    return {
        "data": f"{len(log):,} interactions of {log.n_users:,} users with {log.n_items:,} items",
        "fingerprint": fingerprint[:16],
        "held out": f"{int((split.part == 'test').sum()):,} interactions, {config.split.kind}",
        "seed": str(config.seed),
    }


def trained_until(log: InteractionLog) -> dict[str, str]:
    """The time of the newest interaction that was trained on, where there are times."""
    if log.timestamp_ms is None:
        return {}
    newest = datetime.fromtimestamp(int(log.timestamp_ms.max()) / 1e3, UTC)
    return {"trained_until": newest.isoformat(timespec="seconds")}


def run_key(fingerprint: str, config: RecommenderConfig) -> str:
    """A name for this data and this configuration."""
    text = fingerprint + config.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_split(prepared: Prepared, config: SplitConfig) -> Split:
    """The split that the configuration names.

    Raises:
        ValueError: the data lack the split column or the times that it needs.
    """
    log = prepared.log
    n_users, n_items = log.n_users, log.n_items
    has_test = log.split is not None and bool((log.split == "test").any())
    kind: str = config.kind
    if kind == "auto":
        timed = "temporal" if log.timestamp_ms is not None else "leave_last_out"
        kind = "given" if has_test else timed
    if kind == "given":
        if log.split is None or not has_test:
            raise ValueError("split 'given' needs a column `split` with rows marked 'test'")
        return fixed_split(log.user, log.item, log.split, n_users=n_users, n_items=n_items)
    if kind == "temporal":
        if log.timestamp_ms is None:
            raise ValueError("split 'temporal' needs times; use 'leave_last_out'")
        return temporal_split(
            log.user,
            log.item,
            log.timestamp_ms,
            test_share=config.test_share,
            validation_share=0.0,
            n_users=n_users,
            n_items=n_items,
        )
    return leave_last_out(
        log.user, log.item, log.timestamp_ms, n_users=n_users, n_items=n_items, validation=False
    )


def held_out_cases(prepared: Prepared, split: Split) -> EvaluationCases:
    """Everybody who has something new in the test part, and a slice per item type.

    Raises:
        ValueError: nobody has, so that there is nothing to measure.
    """
    try:
        cases = split.cases("test", history=("train", "validation"))
    except ValueError as error:
        raise ValueError(
            f"{error}: hold out another way (--set split.kind=leave_last_out) or more "
            "(--set split.test_share=0.2)"
        ) from error
    kinds = type_slices(cases, prepared.catalogue)
    return replace(cases, item_slices={**cases.item_slices, **kinds})


def type_slices(cases: EvaluationCases, catalogue: Catalogue) -> dict[str, NDArray[np.bool_]]:
    """Item slices, `type=film`, of the types with the most targets; none where all are of one type.

    A slice shows the same lists and counts only targets of its type: a sparse type that the lists
    leave out is seen here, and nowhere in the mean.
    """
    wanted = {kind: catalogue.mask([kind]) for kind in catalogue.types}
    counts = {kind: int(mask[cases.targets.indices].sum()) for kind, mask in wanted.items()}
    asked = sorted((kind for kind in counts if counts[kind]), key=lambda kind: -counts[kind])
    if len(asked) < 2:
        return {}
    return {f"type={kind}": wanted[kind] for kind in asked[:MAX_TYPE_SLICES]}


def compare(
    trained: Trained,
    prepared: Prepared,
    split: Split,
    cases: EvaluationCases,
    config: RecommenderConfig,
    reporter: Reporter,
) -> list[Evaluation]:
    """The model first, then each baseline, on the same held-out cases."""
    training = split.interactions("train", "validation")
    popularity = np.asarray(training.sum(0), dtype=np.float64).ravel()
    fits: dict[str, Callable[[], Ranker]] = {
        "popularity": lambda: Popularity.fit(training),
        "itemknn": lambda: ItemKNN.fit(training),
        "ease": lambda: fit_ease(training),
        "ials": lambda: IALS.fit(training, seed=config.seed, threads=config.threads),
        "text_knn": lambda: TextKNN.fit(prepared.content),
    }
    names: Sequence[str] = config.evaluation.baselines
    found = []
    with reporter.bar("evaluation", 1 + len(names)) as bar:
        for name in ("errata", *names):
            ranker: Ranker = trained if name == "errata" else fits[name]()
            found.append(
                evaluate(
                    ranker,
                    cases,
                    item_popularity=popularity,
                    cutoffs=config.evaluation.cutoffs,
                )
            )
            bar.advance(
                1,
                f"{name}: ndcg@{max(config.evaluation.cutoffs)} "
                f"{found[-1].value(f'ndcg@{max(config.evaluation.cutoffs)}'):.4f}",
            )
    return found


def headline(evaluation: Evaluation) -> dict[str, Any]:
    """The few figures that a list of versions shows."""
    known = evaluation.slices["all"].metrics
    return {name: round(evaluation.value(name), 5) for name in HEADLINE if name in known}
