"""A sparse item type helped by rich ones: the case that 2T-HGNN (arXiv 2403.05185) was made for.

    python -m benchmarks.recommender_sparse_type [--target OVA] [--data DIR] [--seeds N] [--quick]

One item of the target type is held out per user who has one (at random, seed 0, unless the data
come with a test set) and ranked among the target type's items that the user has not met. Users who
met another item of the type are *warm*, the others are *cold* to it. Ties count against a model.

Every arm is the product's own pipeline with one part changed; a seed changes weights and draws, not
the hold-out. `…_ci` is the 95 % bootstrap interval over users of the paired difference to
`towers_only`, each user's metric averaged over the seeds. All arms and seeds take hours: with
`--keep DIR` a run that was stopped goes on after the last arm that it finished.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix

from benchmarks import item_types
from benchmarks.harness import Result, parse
from feature_store.interactions.log import InteractionLog
from models.allocator import keep_buffers
from pipelines.progress import Terminal
from pipelines.recommender.baselines import Popularity, TextKNN, fit_ease
from pipelines.recommender.cases import EvaluationCases, Split, fixed_split, leave_last_out
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.evaluation import Ranker, evaluate
from pipelines.recommender.preparation import Prepared, prepare
from pipelines.recommender.training import train

METRICS = {"hr@10": "hr@10", "mrr": "mrr@100"}
GROUPS = ("warm", "cold")
# Chosen for the product on a validation hold-out of anime OVA, one seed.
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "graph.top_k": 5,
    "graph_network.enabled": False,
    "graph_network.dimension": 64,
    "graph_network.hidden": 64,
    "graph_network.fanouts": (3, 2),
    "graph_network.batch_size": 2_048,
    "graph_network.epochs": 2,
    "towers.dimension": 256,
    "towers.hidden": 128,
    "towers.epochs": 10,
    "towers.batch_size": 256,
    "towers.learning_rate_vectors": 2e-3,
    "towers.learning_rate_networks": 3e-3,
    "towers.hide_share": 0.5,
    "towers.hide_all": 0.2,
    "towers.drop_others": 0.2,
    "linear.regularisation": 200.0,
    "linear.rank": 256,
    "linear.weight": 16.0,
    "lists.weight": 0.0,
}
LAMBDA_ALL, LAMBDA_TARGET = 200.0, 200.0


def arms(config: RecommenderConfig, target: str) -> dict[str, RecommenderConfig]:
    """Arm → configuration. `full` is ours: towers, item graph, closed-form tail, neighbour lists,
    as far as the settings have them.

    `no_lists` is it without the lists, `hgnn` without lists and tail. The link-trained graph
    network, which passes messages over texts and categories and so can place an item that nobody
    has met, is an arm of its own (`with_graph_network`), with two variants that differ in how it
    is trained.
    """
    no_lists = {"lists.weight": 0.0}
    no_tail = {"linear.weight": 0.0, **no_lists}
    towers_only = config.ablated("towers_only").changed(**no_tail)
    linked = config.changed(**{"graph_network.enabled": True})
    network_only = linked.changed(**{"towers.listens": False}, **no_tail)
    return {
        "full": config,
        "no_lists": config.changed(**no_lists),
        "towers_only": towers_only,
        "towers_and_tail": config.ablated("towers_only").changed(**no_lists),
        "hgnn": config.changed(**no_tail),
        "hgnn_sparse_only": config.changed(**{"graph.item_types": (target,)}, **no_tail),
        "with_graph_network": linked,
        "no_balanced_sampler": linked.ablated("no_balanced_sampler"),
        "graph_network_only": network_only,
        "users_in_graph": network_only.ablated("users_in_graph"),
        "content_towers_only": towers_only.changed(
            **{"towers.free_vectors": False, "towers.epochs": 20}
        ),
    }


@dataclass(frozen=True)
class World:
    """A data set, its hold-out, and the cases."""

    prepared: Prepared
    split: Split
    cases: EvaluationCases
    target: str

    @property
    def training(self) -> InteractionLog:
        """What models may know."""
        return self.prepared.log.take(self.split.part == "train")


@dataclass(frozen=True)
class Answers:
    """Per-case metrics of one ranker: (group, metric) → (n,) float64."""

    per_case: dict[tuple[str, str], NDArray[np.float64]]
    coverage: float

    def write(self, path: Path) -> None:
        """Keep them in a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"/".join(key): values for key, values in self.per_case.items()}
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, coverage=np.array(self.coverage), allow_pickle=False, **arrays)
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> Answers:
        """Inverse of `write`."""
        with np.load(path, allow_pickle=False) as arrays:
            per_case = {}
            for name in arrays.files:
                if name != "coverage":
                    group, metric = name.split("/")
                    per_case[group, metric] = arrays[name]
            return cls(per_case, float(arrays["coverage"]))


@lru_cache(maxsize=1)
def load(folder: Path, target: str | None, part: str) -> World:
    """Read, split and ask; `part` is "test", or "validation" for choosing settings."""
    dataset = item_types.read(folder)
    target = target or item_types.sparsest_type(dataset)
    prepared = prepare(dataset)
    log = prepared.log
    among = prepared.catalogue.mask([target])
    if log.split is not None and bool((log.split == "test").any()):
        split = fixed_split(log.user, log.item, log.split, n_users=log.n_users, n_items=log.n_items)
    else:
        split = _hold_out(log, among, seed=0)
    if part == "validation":
        inner = _hold_out(log.take(split.part == "train"), among, seed=1_000)
        kept = split.part.astype("<U10")  # the names of parts differ in length
        kept[split.part == "test"] = "validation"  # known to nobody while settings are chosen
        kept[np.flatnonzero(split.part == "train")] = inner.part
        cases = inner.cases("test", history=("train",), candidates=among)
        return World(prepared, replace(split, part=kept), cases, target)
    return World(prepared, split, split.cases("test", history=("train",), candidates=among), target)


def _hold_out(log: InteractionLog, among: NDArray[np.bool_], *, seed: int) -> Split:
    return leave_last_out(
        log.user,
        log.item,
        n_users=log.n_users,
        n_items=log.n_items,
        validation=False,
        among=among,
        seed=seed,
    )


def measure(world: World, ranker: Ranker) -> Answers:
    """Ask every case."""
    popularity = np.asarray(world.training.matrix().sum(0), dtype=np.float64).ravel()
    found = evaluate(ranker, world.cases, item_popularity=popularity, cutoffs=(10,))
    return Answers(
        {
            (group, name): found.slices[group].per_case[metric]
            for group in GROUPS
            if group in found.slices
            for name, metric in METRICS.items()
        },
        found.value("coverage@10"),
    )


def run_arm(
    folder: Path, target: str, part: str, config: RecommenderConfig, keep: Path | None
) -> Answers:
    """Train one arm with one seed in a process of its own, or read what an earlier run kept."""
    text = f"{folder.resolve()} {target} {part} {config.model_dump_json()}"
    kept = None if keep is None else keep / f"{sha256(text.encode()).hexdigest()[:24]}.npz"
    if kept is not None and kept.exists():
        return Answers.read(kept)
    torch.set_num_threads(1)
    keep_buffers()
    world = load(folder, target, part)
    answers = measure(world, train(world.prepared, world.training, config))
    if kept is not None:
        answers.write(kept)
    return answers


def baselines(world: World) -> dict[str, Callable[[], Ranker]]:
    """The rivals; λ was chosen on the validation hold-out of anime OVA."""
    matrix = world.training.matrix()
    of_target = matrix.multiply(world.prepared.catalogue.mask([world.target])[None, :]).tocsr()

    def ease(name: str, interactions: csr_matrix, regularisation: float) -> Ranker:
        return replace(fit_ease(interactions, regularisation=regularisation), name=name)

    known: dict[str, Callable[[], Ranker]] = {
        "popularity": lambda: Popularity.fit(matrix),
        "ease_target": lambda: ease("ease_target", of_target, LAMBDA_TARGET),
        "ease_all": lambda: ease("ease_all", matrix, LAMBDA_ALL),
    }
    if world.prepared.content.shape[1]:
        known["text_knn"] = lambda: TextKNN.fit(world.prepared.content)
    return known


def interval(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean paired difference; (n,) each."""
    difference = ours - theirs
    rng = np.random.default_rng(seed)
    means = [
        difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(2_000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def seed_mean(answers: list[Answers]) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Each case's metric, averaged over the seeds."""
    return {
        key: np.mean([each.per_case[key] for each in answers], axis=0)
        for key in answers[0].per_case
    }


def figures(answers: list[Answers]) -> dict[str, Any]:
    """Mean and spread over seeds of each group's metrics."""
    row: dict[str, Any] = {}
    for group, name in answers[0].per_case:
        values = [float(each.per_case[group, name].mean()) for each in answers]
        row[f"{group}_{name}"] = float(np.mean(values))
        if len(values) > 1:
            row[f"{group}_{name}_sd"] = float(np.std(values, ddof=1))
    return row | {"coverage": float(np.mean([each.coverage for each in answers]))}


def main() -> None:
    """Run all arms and print the table and the last line."""
    arguments = parse(
        __doc__,
        data="recsys/anime",
        seeds=5,
        options={
            "--target": {"help": "item type; the one with the fewest interactions if left out"},
            "--part": {"choices": ("test", "validation"), "default": "test"},
            "--arms": {"help": "comma-separated; all if left out"},
            "--keep": {"type": Path, "metavar": "DIR", "help": "go on with what lies there"},
            "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "dest": "changes"},
        },
    )
    from errata.cli.options import parse_overrides

    result = Result("recommender_sparse_type", seeds=arguments.seeds)
    target = arguments.extra.target
    if target is None and (arguments.data / "anime_history.dat").exists():
        target = "OVA"
    world = load(arguments.data, target, arguments.extra.part)
    quick = {"towers.epochs": 1, "towers.dimension": 32, "graph_network.epochs": 1}
    settings = SETTINGS | (quick if arguments.quick else {})
    settings |= {"towers.target_types": (world.target,)}
    settings |= parse_overrides(arguments.extra.changes)
    chosen = arms(RecommenderConfig.load(None, settings), world.target)
    if arguments.extra.arms:
        chosen = {name: chosen[name] for name in arguments.extra.arms.split(",")}
    reporter = Terminal()
    answers: dict[str, list[Answers]] = {}
    fits = baselines(world)
    with reporter.bar("baselines", len(fits)) as bar:
        for name, fit in fits.items():
            answers[name] = [measure(world, fit())]
            bar.advance(1)
            say(reporter, name, answers[name][0])
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(arguments.threads, mp_context=context) as pool,
        reporter.bar("arms × seeds", len(chosen) * arguments.seeds) as bar,
    ):
        jobs = {
            (name, seed): pool.submit(
                run_arm,
                arguments.data,
                world.target,
                arguments.extra.part,
                config.changed(seed=seed),
                arguments.extra.keep,
            )
            for seed in range(arguments.seeds)
            for name, config in chosen.items()
        }
        for (name, seed), job in jobs.items():
            answers.setdefault(name, []).append(job.result())
            bar.advance(1)
            say(reporter, f"{name}, seed {seed}", answers[name][-1])
    report(world, answers, result)


def say(reporter: Terminal, name: str, answers: Answers) -> None:
    """One line as soon as it is known: a run of all arms takes hours."""
    found = (
        f"{group} {metric} {each.mean():.4f}" for (group, metric), each in answers.per_case.items()
    )
    reporter.say(f"{name:<32} {'  '.join(found)}  coverage {answers.coverage:.3f}")


def report(world: World, answers: dict[str, list[Answers]], result: Result) -> None:
    """The table on standard error, the last line on standard output."""
    result.details["target"] = world.target
    means = {name: seed_mean(each) for name, each in answers.items()}
    rows = {name: figures(each) for name, each in answers.items()}
    first = next(iter(means.values()))
    result.details["cases"] = {group: len(first[group, "hr@10"]) for group, _ in first}
    for rival in ("towers_only", "ease_all"):
        if rival not in means:
            continue
        for name, row in rows.items():
            if name == rival:
                continue
            for group, metric in means[name]:
                low, high = interval(means[name][group, metric], means[rival][group, metric])
                suffix = "" if rival == "towers_only" else f"_vs_{rival}"
                row[f"{group}_{metric}{suffix}_ci"] = [low, high]
    result.ours = rows.get("full", {})
    result.baselines = {name: row for name, row in rows.items() if name != "full"}
    columns = [f"{group}_{metric}" for group, metric in first] + ["coverage"]
    table = Table("arm", *columns, title=f"{world.target}, {result.seeds} seeds")
    for name, row in rows.items():
        table.add_row(
            name,
            *(
                f"{row[column]:.3f}"
                + (f" ±{row[f'{column}_sd']:.3f}" if f"{column}_sd" in row else "")
                for column in columns
            ),
        )
    Console(stderr=True, width=120).print(table)
    result.print()


if __name__ == "__main__":
    main()
