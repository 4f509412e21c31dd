"""Batch scoring against the obvious loop, which predicts user by user and flow by flow.

    python -m benchmarks.score_batch [--quick] [--data DIR] [--captures DIR] [--threads N]

Users: those of DIR (any format that `errata import` reads), the 100 best unseen items of each,
from the interactions table to Parquet. Flows: those of the captures (default:
$ERRATA_DATA/traffic/ndpi, one behind the other), from packets to Parquet. The loop does the same
with the same edition: it holds histories in a dictionary and flows in memory, asks
`RecommenderEdition.recommend` for each user, `TrafficEdition.classify` for each flow, as one does
who knows how to serve. Its input is shorter, its figure a rate, its loading not counted.

Speed depends on an edition's sizes and not on its quality: the editions have the default sizes
(towers of 128 dimensions and a tail of 256; the default network and a tree of 100 rounds) and
random weights. Each contender is a process of its own with the same number of threads; the loop
runs before and after ours. Memory: the same jobs over ten times the input (users and flows repeated
under other names and times), with buckets and buffers that are small against either input;
`peak_growth` is what ten times the input adds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from benchmarks.harness import Result, parse
from benchmarks.packets import peak_mb, write_input
from feature_store.editions.recommender import RecommenderEdition
from feature_store.editions.scoring import Scoring
from feature_store.editions.traffic import (
    Decision,
    TrafficEdition,
    build_network,
    read_network,
)
from feature_store.error_memory import KeySpace
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.importers import import_dataset
from feature_store.interactions.rejects import Rejects
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.registry import Registry
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import open_capture
from feature_store.traffic.features import Tier, feature_table
from feature_store.traffic.flows import FlowBatch, FlowSettings
from feature_store.traffic.report import describe_flows
from feature_store.vectors import IndexSpec, VectorIndex
from models.recommender.user_tower import UserTower
from pipelines.recommender.config import RecommenderConfig
from pipelines.scoring.inputs import TABLE_SUFFIXES, find_files
from pipelines.scoring.job import Job, in_process, score
from pipelines.scoring.output import Output
from pipelines.scoring.recommender import RecommenderJob, TableSource
from pipelines.scoring.traffic import CAPTURE_SUFFIXES, TrafficJob
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.train_network import embedding_config

K = 100
TIMES = 10
CLASSES = tuple(f"class {number}" for number in range(8))
# Rates by the wall, and by the processor's time, which other work on the machine does not stretch.
RATES = {"rows_per_s": "seconds", "rows_per_cpu_s": "cpu_seconds"}
# Small against the default input, so that both inputs have many buckets and fill the buffer.
BUCKET_BYTES, BUFFER_BYTES = 1 << 19, 1 << 24


def main() -> None:
    """Run the benchmark, or one contender of it."""
    if sys.argv[1:2] == ["--contender"]:
        model, name, world, limit = sys.argv[2:]
        print(json.dumps(CONTENDERS[model, name](Path(world), int(limit))))
        return
    arguments = parse(
        __doc__,
        data="recsys/ml-1m",
        seeds=1,
        options={"--captures": {"type": Path, "help": "default: ERRATA_DATA/traffic/ndpi"}},
    )
    captures = arguments.extra.captures or Path(os.environ["ERRATA_DATA"]) / "traffic" / "ndpi"
    result = Result("score_batch")
    ours: dict[str, Any] = {}
    loop: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        root = Path(folder)
        make_users(root, arguments.data, most=1_000 if arguments.quick else None)
        make_flows(root, captures, packets=20_000 if arguments.quick else 100_000)
        looped = 100 if arguments.quick else 500
        for model in ("recommender", "traffic"):
            loops = [contend(model, "loop", root, looped, arguments.threads)]
            once = contend(model, "ours", root, 1, arguments.threads)
            often = contend(model, "ours", root, TIMES, arguments.threads)
            loops.append(contend(model, "loop", root, looped, arguments.threads))
            looped_rows = sum(each["rows"] for each in loops)
            for name, key in RATES.items():
                loop[f"{model}_{name}"] = looped_rows / sum(each[key] for each in loops)
                ours[f"{model}_{name}"] = once["rows"] / once[key]
                ours[f"{model}_{name}_at_10x"] = often["rows"] / often[key]
            ours |= {
                f"{model}_rows": once["rows"],
                f"{model}_peak_mb": once["peak_mb"],
                f"{model}_peak_mb_at_10x": often["peak_mb"],
                f"{model}_peak_growth": often["peak_mb"] / once["peak_mb"] - 1,
            }
            # Over the long input: what a job costs once is no part of a rate.
            for name, speedup in (("rows_per_s", "speedup"), ("rows_per_cpu_s", "cpu_speedup")):
                gain = ours[f"{model}_{name}_at_10x"] / loop[f"{model}_{name}"]
                ours[f"{model}_{speedup}"] = gain
    both = ("recommender", "traffic")
    result.ours = {
        "speedup": min(ours[f"{model}_speedup"] for model in both),
        "cpu_speedup": min(ours[f"{model}_cpu_speedup"] for model in both),
        "rows_per_s": min(ours[f"{model}_rows_per_s_at_10x"] for model in both),
        "peak_mb": max(ours[f"{model}_peak_mb_at_10x"] for model in both),
        **ours,
    }
    result.baselines["loop"] = {
        "speedup": 1.0,
        "rows_per_s": min(loop[f"{model}_rows_per_s"] for model in both),
        **loop,
    }
    result.details = {"threads": arguments.threads, "k": K}
    result.print()


def contend(model: str, name: str, root: Path, limit: int, threads: int) -> dict[str, Any]:
    """One run in a process of its own."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")
    command = [sys.executable, "-m", "benchmarks.score_batch", "--contender"]
    done = subprocess.run(
        [*command, model, name, str(root), str(limit)],
        env=os.environ | dict.fromkeys(names, str(threads)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(model, name, limit, found, file=sys.stderr, flush=True)
    return found


def make_users(root: Path, data: Path, *, most: int | None) -> None:
    """An edition of the data's catalogue, and the tables once and `TIMES` times."""
    dataset = import_dataset(data, format="auto", rejects=Rejects())
    log = dataset.interactions
    if most is not None:
        ids = log["user_id"].unique(maintain_order=True).head(most)
        log = log.filter(pl.col("user_id").is_in(ids.implode()))
    publish(root, "recommender", lambda folder: recommender_edition(dataset).save(folder))
    for times in (1, TIMES):
        folder = root / f"users-{times}"
        folder.mkdir()
        copies = [
            log.with_columns(pl.format(f"{copy}-{{}}", pl.col("user_id")).alias("user_id"))
            for copy in range(times)
        ]
        copied = pl.concat(copies)
        copied.write_parquet(folder / "interactions.parquet")
        copied.select(pl.col("user_id").unique(maintain_order=True)).write_parquet(
            folder / "asked.parquet"
        )


def recommender_edition(dataset: Dataset) -> RecommenderEdition:
    """Random unit vectors of the default sizes over the data's items."""
    config = RecommenderConfig()
    rng = np.random.default_rng(0)
    catalogue = Catalogue.from_items(dataset.items)
    items = dataset.items.sort("item_type", "item_id")
    n, d, rank = len(items), config.towers.dimension, config.linear.rank

    def unit(columns: int) -> NDArray[np.float32]:
        drawn = rng.standard_normal((n, columns), dtype=np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    vectors = np.concatenate([unit(d), unit(rank)], axis=1)
    return RecommenderEdition(
        catalogue=catalogue,
        items=items,
        item_vectors=vectors,
        history_vectors=unit(d),
        history_tail=unit(rank),
        bias=rng.standard_normal(n, dtype=np.float32),
        popularity=rng.pareto(1.2, n).astype(np.float32),
        user_tower=UserTower(
            dimension=d, n_types=len(catalogue.types), n_features=0, d_hidden=config.towers.hidden
        ),
        d_hidden=config.towers.hidden,
        index=VectorIndex.build(vectors, IndexSpec(), device="cpu"),
        scoring=Scoring(temperature=0.1),
        history=HistoryPolicy(),
        content=ContentSpec.fit(items, text_dimension=256),
        user_features=UserFeatureSpec(),
    )


def make_flows(root: Path, captures: Path, *, packets: int) -> None:
    """An edition, and one capture once and `TIMES` times."""
    for times in (1, TIMES):
        folder = root / f"flows-{times}"
        folder.mkdir()
        write_input(captures, folder / "all.pcap", packets=times * packets)
    config = TrafficConfig()
    torch.manual_seed(0)
    network = build_network(
        embedding_config(config.network, Tier.T1), config.network.encoder, len(CLASSES)
    )
    meter = FlowMeter(FlowSettings(kept_packets=config.network.packets))
    with open_capture(root / "flows-1" / "all.pcap") as opened:
        flows = FlowBatch.concatenate(list(read_flows(opened, meter)))[:2_000]
    label = np.random.default_rng(0).integers(len(CLASSES), size=len(flows))
    settings = {"objective": "multiclass", "num_class": len(CLASSES), "num_leaves": 15}
    table, _ = feature_table(flows, Tier.T1)
    tree = lightgbm.train(
        settings | {"verbosity": -1, "seed": 0}, lightgbm.Dataset(table, label), num_boost_round=100
    )
    decision = Decision(network_weight=0.5, unknown_below=0.2)
    keys = KeySpace.fit(read_network(network.eval(), flows, Tier.T1)[1])
    edition = TrafficEdition(CLASSES, Tier.T1, network, tree, decision, keys)
    publish(root, "traffic", edition.save)


def publish(root: Path, model: str, save: Callable[[Path], None]) -> None:
    """A version in the benchmark's registry."""
    staging = root / f"staged-{model}"
    staging.mkdir()
    save(staging)
    registry = Registry(root / "registry")
    version = registry.publish(
        model, staging, data_fingerprint="", code_version="benchmark", config={}, metrics={}
    ).version
    registry.promote(model, version, alias="champion")


def recommender_job(root: Path, times: int) -> Job:
    """All users of the tables."""
    folder = root / f"users-{times}"
    files = {
        name: find_files([str(folder / f"{name}.parquet")], suffixes=TABLE_SUFFIXES)
        for name in ("asked", "interactions")
    }
    return RecommenderJob(
        **_named(root, "recommender"),
        kind="users",
        inputs=files["asked"],
        histories=TableSource(*files["interactions"]),
        k=K,
        bucket_bytes=BUCKET_BYTES,
        buffer_bytes=BUFFER_BYTES,
    )


def traffic_job(root: Path, times: int) -> Job:
    """All flows of the capture."""
    captures = find_files([str(root / f"flows-{times}")], suffixes=CAPTURE_SUFFIXES)
    return TrafficJob(**_named(root, "traffic"), captures=captures)


def _named(root: Path, model: str) -> dict[str, Any]:
    version = Registry(root / "registry").resolve(model, "champion")
    return {
        "registry": str(root / "registry"),
        "cache": None,
        "reference": "champion",
        "version": version,
        "code_version": "benchmark",
    }


def ours(job_of: Callable[[Path, int], Job]) -> Callable[[Path, int], dict[str, Any]]:
    """The job over its whole input."""

    def run(root: Path, times: int) -> dict[str, Any]:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        job = job_of(root, times)
        clock = Clock()
        with tempfile.TemporaryDirectory(prefix="errata-") as folder:
            done = score(job, Output(folder), engine=in_process)
        return clock.told(done.rows)

    return run


def recommender_loop(root: Path, most: int) -> dict[str, Any]:
    """One user after the other."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    directory, _ = Registry(root / "registry").open("recommender", "champion")
    edition = RecommenderEdition.load(directory)
    users = pl.read_parquet(root / "users-1" / "asked.parquet")["user_id"].to_list()[:most]
    log = pl.read_parquet(root / "users-1" / "interactions.parquet").sort("timestamp")
    events = log.group_by("user_id", maintain_order=True).agg("item_id", "type")
    by_user = {user: (items, kinds) for user, items, kinds in events.iter_rows()}
    catalogue, found = edition.catalogue, []
    clock = Clock()  # what each user needs is there
    for user in users:
        items, kinds = by_user[user]
        rows = catalogue.rows(items)
        history = edition.weigh([list(zip(rows.tolist(), kinds, strict=True))[::-1]])
        features = edition.user_features.encode([{}])
        allowed = np.ones(len(catalogue), np.bool_)
        allowed[rows] = False
        scores, best = edition.recommend(history, features, k=K, allowed=allowed)
        found.append(
            {
                "user_id": user,
                "item_ids": [catalogue.item_ids[row] for row in best[0] if row >= 0],
                "scores": scores[0].tolist(),
            }
        )
    pl.DataFrame(found).write_parquet(root / "loop.parquet")
    return clock.told(len(found))


def traffic_loop(root: Path, most: int) -> dict[str, Any]:
    """One flow after the other."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    directory, _ = Registry(root / "registry").open("traffic", "champion")
    edition = TrafficEdition.load(directory)
    meter = FlowMeter(FlowSettings(kept_packets=edition.packets))
    found: list[dict[str, Any]] = []
    with open_capture(root / "flows-1" / "all.pcap") as opened:
        flows = FlowBatch.concatenate(list(read_flows(opened, meter)))
    edition.classify(flows[:1])  # compiles
    clock = Clock()  # flows are there
    for place in range(min(most, len(flows))):
        flow = flows[place : place + 1]
        probability = edition.classify(flow).probability
        (about,) = describe_flows(flow)
        found.append(
            about
            | {"label": edition.names(probability)[0], "confidence": float(probability.max())}
            | {"probabilities": probability[0].tolist()}
        )
    pl.DataFrame(found).write_parquet(root / "loop.parquet")
    return clock.told(len(found))


class Clock:
    """Time since it was made, by the wall and of the processor."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def told(self, rows: int) -> dict[str, Any]:
        """What a contender reports."""
        return {
            "rows": rows,
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._processor,
            "peak_mb": peak_mb(),
        }


CONTENDERS: dict[tuple[str, str], Callable[[Path, int], dict[str, Any]]] = {
    ("recommender", "ours"): ours(recommender_job),
    ("traffic", "ours"): ours(traffic_job),
    ("recommender", "loop"): recommender_loop,
    ("traffic", "loop"): traffic_loop,
}


if __name__ == "__main__":
    main()
