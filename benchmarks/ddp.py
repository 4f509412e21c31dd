"""Two processes under torchrun against one that is pinned to one core.

    python -m benchmarks.ddp [--quick] [--data DIR]

The traffic network at its default size is pre-trained and fine-tuned on the same flows, for epochs
in the proportion of the default configuration, by one process on one core and by two on one core
each, by turns, the order turning; each process uses one thread. Counted are epochs alone, after one
of each kind that warms up: not starting Python, nor reading data. `speedup` is the ratio of medians
over both kinds together; `pretraining_speedup` and `fine_tuning_speedup` are each kind's own.
`--data` is a folder as `errata train traffic` takes it; without it flows are random numbers, which
take the same time.

It says something only on a machine with two idle cores: `cpu_share` is processor time over
wall-clock time of a process, and well below 1 where others had the cores, or where it waited for
the other process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Result
from feature_store.traffic.flows import FlowBatch
from models.allocator import keep_buffers
from pipelines.distributed import Group, process_group
from pipelines.progress import Silent
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.pipeline import read
from pipelines.traffic.train_network import fine_tune, new_network, pretrain

CLASSES = 6
SPEEDUPS = {
    "speedup": "flows_per_s",
    "pretraining_speedup": "pretraining_flows_per_s",
    "fine_tuning_speedup": "fine_tuning_flows_per_s",
}


def main() -> None:
    """Run the benchmark, or be one of its processes."""
    arguments = parse()
    if arguments.report is not None:
        with process_group() as group:
            be_measured(group, arguments)
        return
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed: this process may use one")
    result = Result("ddp")
    rounds = 1 if arguments.quick else 3
    taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for number in range(rounds):
        for processes in (1, 2) if number % 2 == 0 else (2, 1):
            found = launch(processes, arguments)
            taken[processes].append(found)
            print(f"{processes} processes: {found}", file=sys.stderr)
    figures = {
        processes: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for processes, found in taken.items()
    }
    result.ours = figures[2] | {
        name: figures[2][rate] / figures[1][rate] for name, rate in SPEEDUPS.items()
    }
    result.baselines = {"one_process": figures[1] | dict.fromkeys(SPEEDUPS, 1.0)}
    result.details = {"rounds": rounds, "load": os.getloadavg()[0]}
    result.print()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer flows, epochs and rounds")
    parser.add_argument("--data", type=Path, help="labelled captures")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # of a process of it
    return parser.parse_args()


def launch(processes: int, arguments: argparse.Namespace) -> dict[str, float]:
    """What the first of so many processes measured."""
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        report = Path(directory) / "report.json"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)),
            *("-m", "benchmarks.ddp", "--report", str(report)),
            *(["--quick"] if arguments.quick else []),
            *(["--data", str(arguments.data)] if arguments.data else []),
        ]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        found: dict[str, float] = json.loads(report.read_text())
        return found


def be_measured(group: Group, arguments: argparse.Namespace) -> None:
    """Train on a core of one's own."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[group.rank]})
    torch.set_num_threads(1)
    keep_buffers()
    config = TrafficConfig().changed(**{"threads": 1})
    part, classes = flows_of(arguments, config)
    rounds = 1 if arguments.quick else 2
    network = new_network(config, classes, seed=0)

    def pretraining(epochs: int) -> None:
        pretrain(
            network, part.flows, config.changed(**{"pretraining.epochs": epochs}),
            seed=0, device="cpu", checkpoint=None, reporter=Silent(), group=group,
        )  # fmt: skip

    def fine_tuning(epochs: int) -> None:
        chosen = config.changed(**{"network.epochs": epochs, "network.patience": epochs + 1})
        fine_tune(
            network, part, part[np.zeros(0, np.int64)], chosen,
            seed=0, device="cpu", checkpoint=None, reporter=Silent(), group=group,
        )  # fmt: skip

    of_fine_tuning = max(1, round(config.network.epochs / config.pretraining.epochs))
    kinds = {
        "pretraining": (pretraining, rounds),
        "fine_tuning": (fine_tuning, rounds * of_fine_tuning),
    }
    for train, _ in kinds.values():
        train(1)  # compiles, allocates, and lets the processes meet
    figures, walls, cpus, flows = dict[str, float](), 0.0, 0.0, 0
    for name, (train, epochs) in kinds.items():
        began, cpu_began = time.perf_counter(), time.process_time()
        train(epochs)
        wall = time.perf_counter() - began
        cpus += time.process_time() - cpu_began
        walls, flows = walls + wall, flows + epochs * len(part.label)
        figures[f"{name}_flows_per_s"] = epochs * len(part.label) / wall
    if group.leads:
        figures |= {"flows_per_s": flows / walls, "cpu_share": cpus / walls}
        arguments.report.write_text(json.dumps(figures))


def flows_of(arguments: argparse.Namespace, config: TrafficConfig) -> tuple[LabelledPart, int]:
    """The labelled flows of the data, or random ones, and the number of classes."""
    if arguments.data is not None:
        data = read(arguments.data, config, reporter=Silent())
        rows = np.flatnonzero(data.label >= 0)
        flows, capture = data.flows[rows], data.capture[rows]
        return LabelledPart(flows, data.label[rows].astype(np.int64), capture), len(data.classes)
    n, rng = 256 if arguments.quick else 1_024, np.random.default_rng(0)
    packets = config.network.packets
    columns = (np.zeros((n, *c.shape[1:]), c.dtype) for c in FlowBatch.empty(packets).columns())
    flows = FlowBatch(*columns)
    flows.flow["kept"] = packets
    flows.size[:] = rng.integers(40, 1_500, flows.size.shape)
    flows.direction[:] = rng.choice([-1, 1], flows.direction.shape)
    flows.gap_ns[:] = rng.integers(0, 10**8, flows.gap_ns.shape)
    return LabelledPart(flows, rng.integers(0, CLASSES, n), np.zeros(n, np.int32)), CLASSES


if __name__ == "__main__":
    main()
