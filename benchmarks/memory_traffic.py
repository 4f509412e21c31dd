"""The error memory on streams of network flows, with labels that come late.

    python -m benchmarks.memory_traffic [--quick] [--data DIR] [--captures DIR] [--parts PART …]

Two parts: `luflow`, a long drifting stream, told here; and `captures` (default:
ERRATA_DATA/traffic/iscx_vpn2016), the traffic model on later recordings, told in
`memory_captures`. Figures of a part that is not run are null.

DIR (default: ERRATA_DATA/streams/luflow) holds a zipped CSV per day in LUFlow's format. A small
network is trained on the first day and frozen, the second day chooses every parameter, ours and the
baselines', once for all delays, and the later days are streamed: predict 256 flows, then learn from
those whose labels have arrived, 256, 10,240 or 51,200 flows late. Seeds are of the network. A
figure is the mean over seeds; `_ci` is a paired 95 % interval over seeds of the gain over `knn`.
`*_ruled` decides by `macro_f1_rule` in place of the most probable class, for every arm.

`arf` (river's adaptive random forest) takes 5 ms a flow: it sees only the first flows of the
stream, and `ours_on_arf_slice` are our figures there.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import memory_captures
from benchmarks.harness import Arguments, Result, parse
from feature_store.error_memory import named_policy
from feature_store.error_memory.policy import PolicyName
from pipelines.memory.baselines import adaptive_random_forest, exact_knn, incremental
from pipelines.memory.decisions import macro_f1_rule
from pipelines.memory.luflow import Days, frozen_model, frozen_stream, load_days
from pipelines.memory.metrics import (
    confusion,
    expected_calibration_error,
    log_loss,
    macro_f1,
    macro_f1_of,
)
from pipelines.memory.prequential import replay
from pipelines.memory.stream import Stream
from pipelines.memory.tuning import tune

FloatArray = NDArray[np.float32]
DELAYS = {"256": 256, "10240": 10_240, "50k": 51_200}
Arm = Callable[[Stream, int], FloatArray]
PARTS = ("luflow", "captures")
CAPTURES = "traffic/iscx_vpn2016"
FIXED = (
    *(f"luflow_f1_{delay}" for delay in DELAYS), "iscx_f1_gain", "new_class_f1", "others_cost",
)  # fmt: skip


def main() -> None:
    """Run it."""
    options: dict[str, dict[str, Any]] = {
        "--arf-flows": {"type": int, "default": None, "help": "length of the slice that ARF sees"},
        "--no-baselines": {"action": "store_true", "help": "ours and the frozen network alone"},
        "--captures": {
            "type": Path,
            "default": None,
            "metavar": "DIR",
            "help": f"labelled captures; default: ERRATA_DATA/{CAPTURES}",
        },
        "--left-out": {
            "type": int,
            "default": None,
            "metavar": "N",
            "help": "classes of the captures left out, one after the other; default: 4, 1 if quick",
        },
        "--parts": {"nargs": "+", "default": PARTS, "choices": PARTS, "help": "what is run"},
    }
    arguments = parse(__doc__, data="streams/luflow", seeds=5, options=options)
    result = Result("memory_traffic", seeds=arguments.seeds)
    result.ours = dict.fromkeys(FIXED)
    if "captures" in arguments.extra.parts:
        on_captures(arguments, result)
    if "luflow" in arguments.extra.parts:
        on_luflow(arguments, result)
    result.print()


def on_captures(arguments: Arguments, result: Result) -> None:
    """The second part; without captures it is left out and said so."""
    folder: Path | None = arguments.extra.captures
    if folder is None and "ERRATA_DATA" in os.environ:
        folder = Path(os.environ["ERRATA_DATA"]) / CAPTURES
    try:
        if folder is None:
            raise FileNotFoundError(
                f"name a folder with --captures, or set ERRATA_DATA to one that has {CAPTURES}"
            )
        found = memory_captures.measure(
            folder,
            seeds=arguments.seeds,
            quick=arguments.quick,
            threads=arguments.threads,
            left_out=arguments.extra.left_out or (1 if arguments.quick else 4),
            baselines=not arguments.extra.no_baselines,
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"the part on captures is left out: {error}", file=sys.stderr)
        result.details["captures"] = {"left_out": str(error)}
        return
    result.ours |= found.ours
    for name, figures in found.baselines.items():
        result.baselines[name] = result.baselines.get(name, {}) | figures
    result.details["captures"] = found.details


def on_luflow(arguments: Arguments, result: Result) -> None:
    """The first part."""
    days = load_days(arguments.data, most=4 if arguments.quick else None)
    if arguments.quick:
        days = thinned(days, 30_000)
    arms: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        for name, figures in one_seed(days, arguments, seed, result.details).items():
            arms.setdefault(name, []).append(figures)
    summaries = {name: summary(runs) for name, runs in arms.items()}
    result.ours |= summaries.pop("ours")
    if "knn" in arms:
        result.ours.update(gains(arms["ours"], arms["knn"]))
    for name, figures in summaries.items():
        result.baselines[name] = result.baselines.get(name, {}) | figures
    slice_length = arguments.extra.arf_flows or (3_000 if arguments.quick else 20_000)
    if not arguments.extra.no_baselines:
        result.details["arf_slice"] = slice_length
        result.baselines |= arf_slice(days, slice_length, result.details["policy_object"])
    result.details.pop("policy_object")


def one_seed(
    days: Days, arguments: Arguments, seed: int, details: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Every arm's figures with one network."""
    whole, network = frozen_stream(days, train_day=0, seed=seed), frozen_model(days, 0, seed)
    validation, stream = whole[days.day == 1], whole[days.day > 1]
    counts = confusion(days.labels[days.day == 0], whole.predictions[days.day == 0].argmax(1), 3)
    delays = [d for d in DELAYS.values() if d < len(validation)]
    if "policy_object" not in details:
        tuning = tune(validation, delays=delays)
        details["policy_object"] = tuning.policy
        details["policy"] = tuning.policy.model_dump(mode="json")
        details["flows"] = len(stream)
    policy = details["policy_object"]
    arms: dict[str, Arm] = {
        "ours": lambda s, delay: replay(s, policy, delay=delay).corrected,
        "frozen": lambda s, _: s.predictions,
    }
    if not arguments.extra.no_baselines:
        rate = best_rate(validation, network, delays)
        window, beta = best_window(validation, delays)
        details["incremental_rate"], details["knn_window"], details["knn_beta"] = rate, window, beta
        arms |= {
            "reloop2": reloop2("reloop2"),
            "reloop2_gamma0": reloop2("reloop2_gamma0"),
            "incremental": lambda s, delay: incremental(
                s, copy.deepcopy(network), delay=delay, learning_rate=rate
            ),
            "knn": lambda s, delay: exact_knn(s, delay=delay, window=window, beta=beta),
        }
    figures = {}
    for name, arm in arms.items():
        figures[name] = measure(arm, stream, counts)
        print(f"seed {seed} {name}: {_short(figures[name])}", file=sys.stderr, flush=True)
    return figures


def measure(arm: Arm, stream: Stream, counts: NDArray[np.int64]) -> dict[str, float]:
    """Macro F1, log loss and calibration at every delay."""
    figures: dict[str, float] = {}
    for label, delay in DELAYS.items():
        if delay >= len(stream):
            continue
        out = arm(stream, delay)
        decided = macro_f1_rule(out, stream.labels, delay=delay, counts=counts)
        n = stream.n_classes
        figures[f"luflow_f1_{label}"] = macro_f1(stream.labels, out)
        figures[f"luflow_f1_{label}_ruled"] = macro_f1_of(
            confusion(stream.labels.argmax(1), decided, n)
        )
        figures[f"luflow_logloss_{label}"] = log_loss(stream.labels, out)
        figures[f"luflow_ece_{label}"] = expected_calibration_error(stream.labels, out)
    return figures


def reloop2(name: PolicyName) -> Arm:
    """The paper's memory; K is 32 here, so that a run takes minutes."""
    published = named_policy(name)
    sketch = published.sketches[0].model_copy(update={"tables": 32})
    policy = published.model_copy(update={"sketches": (sketch,)})
    return lambda stream, delay: replay(stream, policy, delay=delay).corrected


def best_rate(stream: Stream, network: nn.Module, delays: list[int]) -> float:
    """Adam's learning rate with the lowest validation log loss over the delays."""

    def loss(rate: float) -> float:
        runs = (
            incremental(stream, copy.deepcopy(network), delay=delay, learning_rate=rate)
            for delay in delays
        )
        return float(np.mean([log_loss(stream.labels, run) for run in runs]))

    return min((1e-4, 3e-4, 1e-3, 3e-3), key=loss)


def best_window(stream: Stream, delays: list[int]) -> tuple[int, float]:
    """Window and β of exact kNN, the same way."""

    def loss(choice: tuple[int, float]) -> float:
        window, beta = choice
        runs = (exact_knn(stream, delay=delay, window=window, beta=beta) for delay in delays)
        return float(np.mean([log_loss(stream.labels, run) for run in runs]))

    return min(((w, b) for w in (1024, 4096) for b in (100.0, 1000.0)), key=loss)


def arf_slice(days: Days, length: int, policy: Any) -> dict[str, dict[str, float]]:
    """ARF and ours on the beginning of the stream, one seed, the delay of 256."""
    stream = frozen_stream(days, train_day=0, seed=0)[days.day > 1][:length]
    try:
        forest = adaptive_random_forest(stream, delay=256, seed=0)
    except ImportError:
        return {"arf": {"missing": 1.0}}
    ours = replay(stream, policy, delay=256).corrected
    return {
        name: {
            "luflow_f1_256": macro_f1(stream.labels, out),
            "luflow_logloss_256": log_loss(stream.labels, out),
        }
        for name, out in (("arf", forest), ("ours_on_arf_slice", ours))
    }


def thinned(days: Days, most: int) -> Days:
    """The first `most` flows of each day."""
    place = np.concatenate([np.arange(n) for n in np.bincount(days.day)])
    kept = place < most
    return Days(
        days.inputs[kept],
        days.labels[kept],
        days.day[kept],
        days.time_s[kept],
        days.names,
        days.classes,
    )


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Means and spreads over the seeds."""
    out: dict[str, Any] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        out[key] = float(np.mean(values))
        if len(values) > 1:
            out[f"{key}_sd"] = float(np.std(values, ddof=1))
    return out


def gains(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Paired 95 % intervals of macro F1 over the seeds."""
    out = {}
    # Student's t for 1 to 9 degrees of freedom.
    t = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
    for label in DELAYS:
        key = f"luflow_f1_{label}"
        if key not in ours[0] or len(ours) < 2:
            continue
        difference = [a[key] - b[key] for a, b in zip(ours, theirs, strict=True)]
        half = t[min(len(difference) - 2, 8)] * np.std(difference, ddof=1) / len(difference) ** 0.5
        mean = float(np.mean(difference))
        out[f"{key}_gain_over_knn_ci"] = [mean - float(half), mean + float(half)]
    return out


def _short(figures: dict[str, float]) -> str:
    return ", ".join(f"{key.removeprefix('luflow_')} {value:.4f}" for key, value in figures.items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
