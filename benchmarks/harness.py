"""What all benchmarks share: arguments, data, the clock, and the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Arguments:
    """What a benchmark was asked for."""

    quick: bool
    data: Path
    seeds: int
    threads: int
    extra: argparse.Namespace


def parse(
    description: str | None,
    *,
    data: str | None,
    seeds: int,
    options: Mapping[str, dict[str, Any]] | None = None,
) -> Arguments:
    """Read the command line.

    Args:
        description: the module's docstring, shown by `--help`.
        data: folder under `ERRATA_DATA` used where `--data` is left out; None needs none.
        seeds: how many seeds run where `--seeds` is left out.
        options: further options, name → arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed and less work: a smoke test")
    parser.add_argument("--data", type=Path, help=f"default: ERRATA_DATA/{data}")
    parser.add_argument("--seeds", type=int, help=f"default: {seeds}, or 1 with --quick")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    for name, arguments in (options or {}).items():
        parser.add_argument(name, **arguments)
    parsed = parser.parse_args()
    folder = parsed.data
    if folder is None and data is None:
        folder = Path()
    elif folder is None:
        assert data is not None
        if "ERRATA_DATA" not in os.environ:
            parser.error(f"name a folder with --data, or set ERRATA_DATA to one that has {data}")
        folder = Path(os.environ["ERRATA_DATA"]) / data
    if not folder.exists():
        parser.error(f"{folder} does not exist")
    torch.set_num_threads(parsed.threads)
    return Arguments(
        quick=parsed.quick,
        data=folder,
        seeds=parsed.seeds or (1 if parsed.quick else seeds),
        threads=parsed.threads,
        extra=parsed,
    )


@dataclass
class Result:
    """The last line of a benchmark.

    Example:
        >>> result = Result("packets")                    # doctest: +SKIP
        >>> result.ours["packets_per_s"] = 512_000
        >>> result.print()
    """

    benchmark: str
    ours: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int = 1
    details: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    def print(self) -> None:
        """One JSON object on one line, after everything else."""
        line = {
            "benchmark": self.benchmark,
            "ours": self.ours,
            "baselines": self.baselines,
            "seeds": self.seeds,
            "seconds": round(time.perf_counter() - self._started, 1),
            "peak_mb": peak_mb(),
            "device": device_name(),
            **self.details,
        }
        sys.stderr.flush()
        print(json.dumps(_rounded(line)), flush=True)


def mean_and_spread(values: list[float], name: str) -> dict[str, float]:
    """`{name: mean, name_sd: standard deviation over seeds}`."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {name: float(np.mean(values)), f"{name}_sd": spread}


def peak_mb() -> int:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def device_name() -> str:
    """The GPU, or the processor and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        # An error of 1e-6 is not none.
        return round(number, 5) if abs(number) > 1e-3 else float(f"{number:.3g}")
    if isinstance(value, np.integer):
        return int(value)
    return value
