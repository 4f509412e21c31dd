"""The item graph's join in memory and out of core: how much memory each takes when the input grows.

    python -m benchmarks.graph_joins [--quick] [--memory-mb 200]

Invented users, each with 40 items of a catalogue with a long tail, and ten times as many users.
Each join runs in a process of its own, which says how far its resident memory went beyond what it
had with the incidence matrix in hand (`join_mb`, and `join_10x_mb` for the larger input). `ours` is
DuckDB under `--memory-mb`, the baseline the blocks of sparse products that smaller data are joined
with. Both keep the same edges: `edges_differ` counts those that are not.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.harness import Result, parse
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import ItemGraph

ITEMS_OF_A_USER = 40
TOP_K = 10


def main() -> None:
    """Join four times, each in a process of its own."""
    options: dict[str, dict[str, Any]] = {
        "--memory-mb": {"type": int, "default": 200, "help": "that DuckDB may use; default 200"}
    }
    arguments = parse(__doc__, data=None, seeds=1, options=options)
    users, items = (2_000, 2_000) if arguments.quick else (5_000, 20_000)
    result = Result("graph_joins")
    found = {
        (engine, times): _apart(engine, users * times, items, arguments.extra.memory_mb)
        for engine in ("duckdb", "memory")
        for times in (1, 10)
    }
    figures = {
        engine: {
            "join_mb": found[engine, 1]["join_mb"],
            "join_10x_mb": found[engine, 10]["join_mb"],
            "seconds": found[engine, 1]["seconds"],
            "seconds_10x": found[engine, 10]["seconds"],
        }
        for engine in ("duckdb", "memory")
    }
    differ = sum(
        abs(found["duckdb", times]["strength"] - found["memory", times]["strength"]) > 1e-3
        or found["duckdb", times]["edges"] != found["memory", times]["edges"]
        for times in (1, 10)
    )
    result.ours = figures["duckdb"] | {"edges_differ": int(differ)}
    result.baselines = {"memory": figures["memory"]}
    result.details = {
        "pairs_joined": found["duckdb", 1]["pairs"],
        "pairs_joined_10x": found["duckdb", 10]["pairs"],
        "memory_limit_mb": arguments.extra.memory_mb,
    }
    result.print()


def _apart(engine: str, users: int, items: int, memory_mb: int) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_join, (engine, users, items, memory_mb))


def _join(engine: str, users: int, items: int, memory_mb: int) -> dict[str, float]:
    """Join once, in this process."""
    from feature_store.interactions.joined import pairs_of

    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), ITEMS_OF_A_USER)
    item = np.minimum(rng.pareto(0.8, len(user)) * items / 50, items - 1).astype(np.int64)
    ones = np.ones(len(user), np.float32)
    incidence = sp.csr_matrix((ones, (item, user)), shape=(items, users))
    incidence.data[:] = 1
    catalogue = Catalogue(tuple(f"{n:07}" for n in range(items)), ("item",) * items)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    graph = ItemGraph.build(
        {"met": incidence},
        catalogue,
        top_k=TOP_K,
        in_memory_pairs=0 if engine == "duckdb" else None,
        memory_mb=memory_mb,
    )
    seconds = time.perf_counter() - began
    edges = graph.edges["item", "met", "item"]
    return {
        "join_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "seconds": seconds,
        "edges": len(edges),
        "strength": float(edges.strength.astype(np.float64).mean()),
        "pairs": pairs_of(incidence),
    }


if __name__ == "__main__":
    main()
