"""The error memory on captures of network traffic: the second half of `memory_traffic`.

An edition of the product's own pipeline is trained on the honest split's earlier recordings (tree,
and a small network of few epochs without pre-training) and frozen. The later recordings are
streamed through the memory that is served: predict each flow when it ends; a tenth of the flows
(drawn by seed) get their label, a minute later. Gains are in macro F1 over all streamed flows.

Captures hold one class each and follow each other, so their own order is kind to whoever believes
the newest labels. `mixed` is the control: every class's flows, in their order, are spread evenly
over the same span at a flow a second. A class that was left out of training is streamed that way,
all its flows among the others' later ones. Its first 20 flows are labelled, then a tenth as of all,
and what counts comes after the 20th label; `_alone` is without any label but these 20.

The memory has the parameters that it is served with. The baselines' are chosen on a stream within
the training recordings, by the mean macro F1 of both orders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.traffic import TrafficEdition
from feature_store.error_memory import named_policy
from feature_store.error_memory.policy import PolicyName
from pipelines.memory.baselines import exact_knn, incremental
from pipelines.memory.metrics import confusion, log_loss, macro_f1
from pipelines.memory.prequential import Schedule, by_the_clock, replay
from pipelines.memory.stream import Stream
from pipelines.memory.traffic import HeadNetwork, as_stream
from pipelines.progress import Reporter, Terminal
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows
from pipelines.traffic.pipeline import read
from pipelines.traffic.pool import Pool, choose_pool
from pipelines.traffic.split import Split, honest_split
from pipelines.traffic.training import Parts, train
from services.classify.memory_policy import DEFAULT_POLICY

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]
Arm = Callable[[Stream, Schedule], FloatArray]
Figures = dict[str, float]

LABELLED_SHARE = 0.1
DELAY_S = 60.0
FIRST_LABELS = 20  # of a new class
LABEL_DRAWS = 3  # per seed of the edition
SETTINGS: dict[str, Any] = {
    "pretraining.enabled": False,
    "network.epochs": 5,
    "tree.rounds": 60,
}
QUICK: dict[str, Any] = {"network.epochs": 2, "network.encoder.d_model": 32, "tree.rounds": 30}
ORDERS: dict[str, Callable[[Stream], Stream]] = {"": lambda s: s, "_mixed": lambda s: mixed(s)}


@dataclass(frozen=True)
class Found:
    """What came out, in the shapes of a benchmark's last line."""

    ours: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    details: dict[str, Any]


@dataclass(frozen=True)
class _Set:
    data: LabelledFlows
    split: Split
    config: TrafficConfig
    pool: Pool


def measure(
    directory: Path,
    *,
    seeds: int,
    quick: bool,
    threads: int,
    left_out: int,
    baselines: bool,
) -> Found:
    """Everything, over the seeds.

    Raises:
        ValueError, FileNotFoundError: the captures or their labels cannot be read.
    """
    reporter = Terminal()
    config = TrafficConfig().changed(threads=threads, **SETTINGS | (QUICK if quick else {}))
    data = read(directory, config, reporter=reporter)
    data = data[data.label >= 0]
    split = honest_split(data, shares=config.split.shares, gap_s=config.split.gap_s)
    known = Parts.of(data, split).known
    pool = choose_pool(known, data.classes, config, seed=0, device="cpu", reporter=reporter)
    found = _Set(data, split, config, pool)
    others, choices = chosen_baselines(found) if baselines else ({}, {})
    arms: dict[str, Arm] = {
        "ours": lambda s, schedule: replay(s, DEFAULT_POLICY, schedule=schedule).corrected,
        "frozen": lambda s, _: s.predictions,
        "hidden_keys": hidden_keys,
        **others,
    }
    classes = evenly(range(len(data.classes)), left_out)
    runs: dict[str, list[Figures]] = {name: [] for name in arms}
    by_class: dict[str, list[Figures]] = {data.classes[each]: [] for each in classes}
    for seed in range(seeds):
        edition = train(
            Parts.of(data, split), data.classes, config, seed=seed, pool=pool, reporter=reporter
        )
        stream = later_stream(edition, data, split.test, data.classes)
        figures = gains(arms, stream, seed)
        for each in classes:
            new = new_class(found, each, arms, seed, reporter)
            by_class[data.classes[each]].append(new["ours"])
            for name in arms:
                for key, value in new[name].items():
                    figures[name][key] = figures[name].get(key, 0.0) + value / len(classes)
        for name, each_arm in figures.items():
            runs[name].append(each_arm)
            print(f"seed {seed} {name}: {_short(each_arm)}", file=sys.stderr, flush=True)
    summaries = {name: _summary(each) for name, each in runs.items()}
    details = {
        "flows": {"train": len(split.train), "validation": len(split.validation),
                  "streamed": len(split.test)},
        "labels": {"share": LABELLED_SHARE, "late_s": DELAY_S, "draws": LABEL_DRAWS},
        "policy": DEFAULT_POLICY.model_dump(mode="json"),
        "baselines_chosen": choices,
        "new_classes": {name: _summary(each) for name, each in by_class.items()},
    }  # fmt: skip
    return Found(summaries.pop("ours"), summaries, details)


def gains(arms: dict[str, Arm], stream: Stream, seed: int) -> dict[str, Figures]:
    """Every arm's macro F1, and its gain over the frozen edition, in both orders."""
    figures: dict[str, Figures] = {name: {} for name in arms}
    for suffix, ordered in ORDERS.items():
        seen = ordered(stream)
        frozen = macro_f1(seen.labels, seen.predictions)
        for name, arm in arms.items():
            said = [arm(seen, _schedule(seen, drawn)) for drawn in _draws(len(seen), seed)]
            f1 = float(np.mean([macro_f1(seen.labels, each) for each in said]))
            figures[name] |= {
                f"iscx_f1{suffix}": f1,
                f"iscx_f1_gain{suffix}": f1 - frozen,
                f"iscx_logloss{suffix}": float(
                    np.mean([log_loss(seen.labels, each) for each in said])
                ),
            }
    return figures


def new_class(
    found: _Set, left_out: int, arms: dict[str, Arm], seed: int, reporter: Reporter
) -> dict[str, Figures]:
    """Every arm on a class that training never saw, and what it costs the other classes."""
    data, config = found.data, found.config
    of_others = np.flatnonzero(data.label != left_out)
    others = data[of_others].keeping_classes(1)
    split = honest_split(others, shares=config.split.shares, gap_s=config.split.gap_s)
    edition = train(
        Parts.of(others, split), others.classes, config, seed=seed,
        pool=found.pool, reporter=reporter,
    )  # fmt: skip
    rows = np.concatenate([of_others[split.test], np.flatnonzero(data.label == left_out)])
    classes = (*others.classes, data.classes[left_out])
    seen = mixed(later_stream(edition, data, rows, classes))
    truth = seen.labels.argmax(1)
    new = len(classes) - 1
    first = np.flatnonzero(truth == new)[:FIRST_LABELS]
    counted = seen.time_s >= seen.time_s[first[-1]] + DELAY_S
    figures: dict[str, list[Figures]] = {name: [] for name in arms}
    for drawn in _draws(len(seen), seed):
        drawn[first] = True
        for name, arm in arms.items():
            decided = arm(seen, _schedule(seen, drawn)).argmax(1)
            figures[name].append(
                {
                    "new_class_f1": float(
                        f1_by_class(truth[counted], decided[counted], new + 1)[new]
                    ),
                    "others_cost": _others(seen.predictions.argmax(1), truth, counted, new)
                    - _others(decided, truth, counted, new),
                    # How many of the others' flows took the new class's name.
                    "others_named_new": float((decided[counted & (truth != new)] == new).mean()),
                }
            )
    # With no label but the new class's first ones, nothing that others gain hides what they lose.
    only = np.isin(np.arange(len(seen)), first)
    for name, arm in arms.items():
        decided = arm(seen, _schedule(seen, only)).argmax(1)
        cost = _others(seen.predictions.argmax(1), truth, counted, new)
        cost -= _others(decided, truth, counted, new)
        f1 = float(f1_by_class(truth[counted], decided[counted], new + 1)[new])
        for each in figures[name]:
            each |= {"new_class_f1_alone": f1, "others_cost_alone": cost}
    return {name: _mean(each) for name, each in figures.items()}


def hidden_keys(stream: Stream, schedule: Schedule) -> FloatArray:
    """Ours under the hidden vector alone: what the log probabilities in the key are worth."""
    width = stream.inputs.shape[1] - stream.n_classes
    hidden = stream.keys[:, :width]
    keys = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    return replay(replace(stream, keys=keys), DEFAULT_POLICY, schedule=schedule).corrected


def later_stream(
    edition: TrafficEdition, data: LabelledFlows, rows: NDArray[np.int64], classes: tuple[str, ...]
) -> Stream:
    """Some of the flows as the edition sees them, in the order in which they ended."""
    ended = data.flows.flow["last_ns"][rows]
    flows = data[rows[np.argsort(ended, kind="stable")]]
    truth = [classes.index(data.classes[label]) for label in flows.label]
    return as_stream(flows, np.eye(len(classes), dtype=np.float32)[truth], edition, classes)


def mixed(stream: Stream) -> Stream:
    """Every class's flows, in their order, spread evenly over the same span, a flow a second."""
    truth = stream.labels.argmax(1)
    time_s = np.empty(len(stream))
    for each in np.unique(truth):
        rows = np.flatnonzero(truth == each)
        time_s[rows] = (np.arange(len(rows)) + 0.5) / len(rows) * len(stream)
    order = np.argsort(time_s, kind="stable")
    return replace(stream, time_s=time_s)[order]


def chosen_baselines(found: _Set) -> tuple[dict[str, Arm], dict[str, float]]:
    """Baselines with the parameters that are best on a stream within the training recordings."""
    rows = np.sort(np.concatenate([found.split.train, found.split.validation]))
    known, config = found.data[rows], found.config
    inner = honest_split(known, shares=config.split.shares, gap_s=config.split.gap_s)
    edition = train(Parts.of(known, inner), known.classes, config, seed=0, pool=found.pool)
    stream = later_stream(edition, known, inner.test, known.classes)
    orders = [ordered(stream) for ordered in ORDERS.values()]

    def worth(arm: Arm) -> float:
        return float(
            np.mean(
                [
                    macro_f1(seen.labels, arm(seen, _schedule(seen, drawn)))
                    for seen in orders
                    for drawn in _draws(len(seen), 0)
                ]
            )
        )

    window, beta = max(
        ((w, b) for w in (50, 4096) for b in (3.0, 10.0, 30.0, 100.0, 300.0)),
        key=lambda choice: worth(_knn(*choice)),
    )
    rate = max((1e-3, 3e-3, 1e-2, 3e-2), key=lambda each: worth(_incremental(each)))
    arms = {
        "reloop2": _reloop2("reloop2"),
        "reloop2_gamma0": _reloop2("reloop2_gamma0"),
        "incremental": _incremental(rate),
        "knn": _knn(window, beta),
        "newest_label": _knn(1, 1e-9),
    }

    def memory(stream: Stream, schedule: Schedule) -> FloatArray:
        return replay(stream, DEFAULT_POLICY, schedule=schedule).corrected

    return arms, {
        "knn_window": window,
        "knn_beta": beta,
        "incremental_rate": rate,
        "validation_f1_frozen": worth(lambda s, _: s.predictions),
        "validation_f1_ours": worth(memory),
        "validation_f1_knn": worth(_knn(window, beta)),
        "validation_f1_incremental": worth(_incremental(rate)),
    }


def f1_by_class(
    truth: NDArray[np.int64], decided: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """(n,) F1, 0 for a class that neither occurs nor was decided."""
    counts = confusion(truth, decided, n)
    found: NDArray[np.float64] = 2 * np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1), 1)
    return found


def evenly(found: Iterable[int], most: int) -> list[int]:
    """At most `most`, evenly spaced."""
    every = list(found)
    return every if most >= len(every) else [every[k * len(every) // most] for k in range(most)]


def _others(decided: NDArray[np.int64], truth: NDArray[np.int64], counted: Mask, new: int) -> float:
    """Macro F1 of the others' flows over the others' classes."""
    rows = counted & (truth != new)
    occurs = np.unique(truth[rows])
    return float(f1_by_class(truth[rows], decided[rows], new + 1)[occurs].mean())


def _schedule(stream: Stream, labelled: Mask) -> Schedule:
    return by_the_clock(stream.time_s, labelled, delay_s=DELAY_S)


def _draws(n: int, seed: int) -> list[Mask]:
    return [
        np.random.default_rng((seed, draw)).random(n) < LABELLED_SHARE
        for draw in range(LABEL_DRAWS)
    ]


def _knn(window: int, beta: float) -> Arm:
    return lambda s, schedule: exact_knn(s, window=window, beta=beta, schedule=schedule)


def _incremental(rate: float) -> Arm:
    """Adam on a last layer over the hidden vector and the edition's log probabilities."""
    return lambda s, schedule: incremental(
        s,
        HeadNetwork(s.n_classes, s.inputs.shape[1] - s.n_classes),
        learning_rate=rate,
        schedule=schedule,
    )


def _reloop2(name: PolicyName) -> Arm:
    policy = named_policy(name)
    return lambda s, schedule: replay(s, policy, schedule=schedule).corrected


def _mean(found: list[Figures]) -> Figures:
    return {key: float(np.mean([each[key] for each in found])) for key in found[0]}


def _summary(found: list[Figures]) -> dict[str, float]:
    out = {}
    for key, mean in _mean(found).items():
        out[key] = mean
        if len(found) > 1:
            out[f"{key}_sd"] = float(np.std([each[key] for each in found], ddof=1))
    return out


def _short(figures: Figures) -> str:
    return ", ".join(f"{key.removeprefix('iscx_')} {value:+.4f}" for key, value in figures.items())
