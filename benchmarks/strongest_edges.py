"""The strongest edges of a dense matrix: one pass in memory's order against a sort in part.

    python -m benchmarks.strongest_edges [--quick]

One block of what a graph over 20,000 items of a type is made from: normal numbers, and of each of
1,024 columns the 10, and the 64, largest above 0. `ours` is `strongest`, the baseline numpy's
argpartition over the same block; milliseconds of processor time, medians of interleaved rounds.
Both find the same rows: `rows_differ` counts those that are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, parse
from feature_store.interactions.strongest import strongest

COLUMNS = 1_024
KEPT = (10, 64)


def main() -> None:
    """Time both."""
    arguments = parse(__doc__, data=None, seeds=1, options={})
    n, rounds = (2_000, 3) if arguments.quick else (20_000, 7)
    weights = np.random.default_rng(0).standard_normal((n, COLUMNS)).astype(np.float32)
    result = Result("strongest_edges")
    figures: dict[str, dict[str, float]] = {"ours": {}, "argpartition": {}}
    differ = 0
    for k in KEPT:
        found = {"ours": strongest(weights, k)[0], "argpartition": sorted_in_part(weights, k)}
        differ += int((np.sort(found["ours"]) != np.sort(found["argpartition"])).sum())
        spent: dict[str, list[float]] = {"ours": [], "argpartition": []}
        for _ in range(rounds):
            spent["ours"].append(milliseconds(strongest, weights, k))
            spent["argpartition"].append(milliseconds(sorted_in_part, weights, k))
        for arm, each in spent.items():
            figures[arm][f"keep_{k}_ms"] = float(np.median(each))
    result.ours = figures["ours"] | {"rows_differ": differ}
    result.baselines = {"argpartition": figures["argpartition"]}
    result.details = {"rows": n, "columns": COLUMNS}
    result.print()


def sorted_in_part(weights: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(m, k) rows of the largest of each column, in any order."""
    return np.argpartition(-weights.T, k - 1, axis=1)[:, :k]


def milliseconds(
    work: Callable[[NDArray[np.float32], int], object], weights: NDArray[np.float32], k: int
) -> float:
    """Of processor time."""
    began = time.process_time()
    work(weights, k)
    return (time.process_time() - began) * 1e3


if __name__ == "__main__":
    main()
