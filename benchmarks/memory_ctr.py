"""The error memory on streams of choices.

    python -m benchmarks.memory_ctr [--quick] [--data DIR] [--streams NAME,NAME]

DIR (default: ERRATA_DATA/streams) holds a folder per stream. The first half trains a small network,
the next tenth chooses every parameter, the rest is streamed: predict 256 events, then learn from
those before. A stream with ratings has real negatives; without, each event gets one, drawn
uniformly (`NAME_uniform`) or from what is popular now (`NAME_now`): a gain under the first alone is
popularity that leaked through the sampler. Where the tuner finds no certain gain it switches the
memory off and the gain is 0. `_ci`: paired 95 % interval, from 50 blocks of time of all seeds.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Result, parse
from feature_store.error_memory import named_policy
from pipelines.memory.baselines import exact_knn, incremental, popularity_counter
from pipelines.memory.metrics import auc, grouped_auc, log_loss
from pipelines.memory.prequential import replay
from pipelines.memory.ratings import choice_stream, load_events
from pipelines.memory.tuning import candidates, tune

FloatArray = NDArray[np.float32]
DEFAULT = "taobao_ub,ml-100k,ml-latest-small,grocery_amazon"
DELAY, BLOCKS = 256, 50


def main() -> None:
    """Run it."""
    options: dict[str, dict[str, Any]] = {
        "--streams": {"default": DEFAULT},
        "--events": {"type": int, "default": None, "help": "read only so many of a stream"},
    }
    arguments = parse(__doc__, data="streams", seeds=5, options=options)
    result = Result("memory_ctr", seeds=arguments.seeds)
    most = arguments.extra.events or (30_000 if arguments.quick else 150_000)
    for name in arguments.extra.streams.split(","):
        for label, sampler in samplers(arguments.data / name, name):
            arms: dict[str, list[dict[str, float]]] = {}
            blocks: list[float] = []
            for seed in range(arguments.seeds):
                run, gains, enabled = one(arguments.data / name, sampler, seed, most)
                blocks += gains
                result.details.setdefault("enabled", {}).setdefault(label, []).append(enabled)
                for arm, figures in run.items():
                    arms.setdefault(arm, []).append(figures)
            for arm, runs in arms.items():
                into = result.ours if arm == "ours" else result.baselines.setdefault(arm, {})
                for key in runs[0]:
                    into[f"{label}_{key}"] = float(np.mean([each[key] for each in runs]))
            half = 1.96 * np.std(blocks, ddof=1) / np.sqrt(len(blocks))
            gain = result.ours[f"{label}_auc"] - result.baselines["base"][f"{label}_auc"]
            mean = float(np.mean(blocks))
            result.ours[f"{label}_auc_gain"] = gain
            result.ours[f"{label}_auc_gain_ci"] = [mean - float(half), mean + float(half)]
    result.print()


def samplers(folder: Path, name: str) -> list[tuple[str, str]]:
    """What the stream is called and how its negatives are drawn."""
    events = load_events(folder, negatives="uniform", seed=0, most=1_000)
    paired = np.array_equal(events.labels[:4], [1, 0, 1, 0]) and len(events.labels) == 2_000
    return [(f"{name}_uniform", "uniform"), (f"{name}_now", "now")] if paired else [(name, "")]


def one(
    folder: Path, sampler: str, seed: int, most: int
) -> tuple[dict[str, dict[str, float]], list[float], bool]:
    """Every arm on one stream, the gain in AUC per block of time, and whether the memory is on."""
    whole, network = choice_stream(
        load_events(folder, negatives=sampler, seed=seed, most=most), seed=seed
    )
    n = len(whole)
    validation, stream = whole[n // 2 : n * 6 // 10], whole[n * 6 // 10 :]
    policy = tune(validation, delays=(DELAY,), policies=candidates(1)[::2]).policy

    def rate_loss(rate: float) -> float:
        trial = incremental(validation, copy.deepcopy(network), delay=DELAY, learning_rate=rate)
        return log_loss(validation.labels, trial)

    rate = min((1e-4, 1e-3, 3e-3), key=rate_loss)
    paper = named_policy("reloop2").sketches[0].model_copy(update={"tables": 32})
    published = named_policy("reloop2").model_copy(update={"sketches": (paper,)})
    out = {
        "ours": replay(stream, policy, delay=DELAY).corrected,
        "base": stream.predictions,
        "popularity": popularity_counter(stream.items, stream.labels, delay=DELAY),
        "reloop2": replay(stream, published, delay=DELAY).corrected,
        "incremental": incremental(stream, copy.deepcopy(network), delay=DELAY, learning_rate=rate),
        "knn": exact_knn(stream, delay=DELAY, beta=10.0),
    }
    figures = {
        arm: {
            "auc": auc(stream.labels, scores),
            "gauc": grouped_auc(stream.labels, scores, stream.groups),
            "logloss": log_loss(stream.labels, scores),
        }
        for arm, scores in out.items()
    }
    gains = [
        auc(stream.labels[rows], out["ours"][rows]) - auc(stream.labels[rows], out["base"][rows])
        for rows in np.array_split(np.arange(len(stream)), BLOCKS)
    ]
    print(f"{folder.name} {sampler} seed {seed} on={policy.enabled}: {figures}", file=sys.stderr)
    return figures, [gain for gain in gains if np.isfinite(gain)], policy.enabled


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
