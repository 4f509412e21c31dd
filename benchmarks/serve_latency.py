"""Recommendations over HTTP: latency, throughput, recall, swaps and overload, in one run.

    python -m benchmarks.serve_latency [--quick] [--data REGISTRY] [--parts PARTS]

PARTS are some of main, large, swap and overload.

`main` serves 100k items × 128 with one worker beside a bare FastAPI endpoint that returns the same
bytes, and LitServe hosting the same three steps with the exact index (`litserve`) and with ours
(`litserve_same_index`). Rounds are interleaved and medians reported; the load comes from a process
of its own. `rps` is the closed loop of 16 connections; `p50_ms` and `p99_ms` are of an open loop at
half of it. `large` is 1M items × 64: recall of the best 100 by score against a scan, through HTTP,
and latency at a fifth of saturation. `swap` promotes ten times under load; `overload` offers five
times what was sustained.

With `--data` the champion of that registry is served in place of the made-up 100k items, and users
are drawn around its items. `cpu_ms` is the server's processor time per answer, which other work on
the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.harness import Result
from benchmarks.serving.processes import Server, finish, server, start_load
from benchmarks.serving.store import free_port, until
from benchmarks.serving.world import NOISE_64, World, make_world, world_of
from feature_store.editions.indexing import with_tuned_index
from feature_store.editions.recommender import MODEL_NAME
from feature_store.online import EmbeddedRedis, connect
from feature_store.registry import Registry
from feature_store.vectors import IndexSpec, exact_top, recall

K, CONNECTIONS, SWAPS, OVERLOAD = 100, 16, 10, 5
RECOVERS_WITHIN_S = 2.0
TARGET_RECALL = {"main": 0.99, "large": 0.985}
PARTS = ("main", "large", "swap", "overload")


def main() -> None:
    """Run the parts that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small and short: a smoke test")
    parser.add_argument("--data", type=Path, help="a registry whose champion is served")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to run")
    parser.add_argument("--rounds", type=int, help="interleaved rounds of `main`")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one load of `main`")
    arguments = parser.parse_args()
    parts = set(arguments.parts.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"--parts are of {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    if arguments.data is not None and not arguments.data.is_dir():
        parser.error(f"{arguments.data} does not exist")
    result = Result("serve_latency")
    quick = arguments.quick
    result.details["settings"] = {"k": K, "connections": CONNECTIONS, "quick": quick}
    if parts & {"main", "swap", "overload"}:
        _small(result, arguments, parts, quick=quick)
    if "large" in parts:
        n_items = 60_000 if quick else 1_000_000
        result.details["large"] = _large(n_items, seconds=2 if quick else 10)
        if "recall@100" not in result.ours:
            result.ours["recall@100"] = result.details["large"]["recall@100"]
    result.print()


def _small(result: Result, arguments: argparse.Namespace, parts: set[str], *, quick: bool) -> None:
    if arguments.data is not None:
        world = world_of(Registry(str(arguments.data)), n_users=2_000)
    else:
        say("making 100k items × 128" if not quick else "making 20k items × 64")
        n_items, d = (20_000, 64) if quick else (100_000, 128)
        world = make_world(n_items=n_items, d=d, n_users=2_000, spec=IndexSpec(kind="flat"))
    with Place(world, target_recall=TARGET_RECALL["main"]) as place, ExitStack() as stack:
        result.details["index"] = place.report
        ours = stack.enter_context(place.ours())
        result.ours["recall@100"] = recall_over_http(ours, place.world, quick=quick)
        seconds = 1.5 if quick else arguments.seconds
        if "main" in parts:
            rivals = [stack.enter_context(each) for each in place.rivals(ours)]
            rounds = arguments.rounds or (2 if quick else 5)
            _side_by_side(result, ours, rivals, place.bodies, rounds=rounds, seconds=seconds)
            rate = result.ours["rps"] / 2
        else:
            rate = ours.load(place.bodies, connections=CONNECTIONS, seconds=seconds)["rps"] / 2
        if "swap" in parts:
            result.details["swap"] = _swaps(ours, place, rate, seconds=10 if quick else 60)
            result.ours["swap_failed"] = result.details["swap"]["failed"]
        if "overload" in parts:
            found = _overload(ours, place, 2 * rate, seconds=5 if quick else 30)
            result.details["overload"] = found


class Place:
    """A home with a registry, a Redis full of users, and the version under test."""

    def __init__(self, world: World, *, target_recall: float) -> None:
        self._stack = ExitStack()
        self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="errata-")))
        say(f"tuning the index for recall {target_recall}")
        edition, report = with_tuned_index(
            world.edition, world.user_vectors(1_000), target_recall=target_recall, k=K, on_trial=say
        )
        self.report = report.to_json()
        self.world = replace(world, edition=edition)
        self.registry = Registry(self.home / "registry")
        self.redis = EmbeddedRedis(self.home / "redis")
        self.bodies = self.home / "bodies.jsonl"

    def __enter__(self) -> Place:
        self.versions = [self.world.publish(self.registry, self.home / "staging") for _ in "ab"]
        self._stack.enter_context(self.redis)
        self.world.fill_redis(self.redis.url)
        self.bodies.write_bytes(b"\n".join(self.world.bodies(k=K)))
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    def rewrites(self) -> int:
        """How often Redis has written its append-only file anew, which takes a core for a second or
        more."""
        return int(connect(self.redis.url).info("persistence")["aof_rewrites"])

    def ours(self) -> Any:
        """The service, one worker."""
        port = free_port()
        env = {"ERRATA_HOME": str(self.home), "ERRATA_REDIS_URL": self.redis.url}
        command = ["errata", "serve", "--port", str(port)]
        return server("ours", command, port=port, probe="/readyz", env=env)

    def rivals(self, ours: Server) -> list[Any]:
        """The servers that ours is compared with."""
        answer = self.home / "answer.json"
        body = {"user_id": "u0", "k": K}
        url = f"http://127.0.0.1:{ours.port}/v1/recommendations"
        answer.write_bytes(httpx.post(url, json=body, timeout=30).content)
        known = ["--registry", str(self.home / "registry"), "--redis", self.redis.url]
        lit = "benchmarks.serving.litserve_app"
        modules = {
            "bare_fastapi": ["benchmarks.serving.bare_fastapi", "--answer", str(answer)],
            "litserve": [lit, *known, "--index", "flat"],
            "litserve_same_index": [lit, *known, "--index", "ours"],
        }
        return [
            server(name, [*module, "--port", str(port)], port=port, probe=None, env={})
            for name, module in modules.items()
            for port in (free_port(),)
        ]


def _side_by_side(
    result: Result,
    ours: Server,
    rivals: list[Server],
    bodies: Path,
    *,
    rounds: int,
    seconds: float,
) -> None:
    """Closed loops of all, round by round, then open loops of ours and the medians of both."""
    servers = [ours, *rivals]
    closed: dict[str, list[dict[str, Any]]] = {each.name: [] for each in servers}
    for each in servers:  # nobody pays for caches in the first round
        each.load(bodies, connections=CONNECTIONS, seconds=seconds)
    for number in range(rounds):
        for each in servers:
            found = each.load(bodies, connections=CONNECTIONS, seconds=seconds)
            closed[each.name].append(found)
            say(f"round {number + 1}: {each.name} {found['rps']:.0f} requests/s")
    saturated = {
        name: statistics.median(run["rps"] for run in runs) for name, runs in closed.items()
    }
    for each in servers:
        runs = [
            each.load(bodies, connections=64, rate=saturated[each.name] / 2, seconds=seconds)
            for _ in range(rounds)
        ]
        figures = {
            "rps": saturated[each.name],
            "p50_ms": _median(runs, "p50_ms"),
            "p99_ms": _median(runs, "p99_ms"),
            "failed": sum(run["failed"] for run in runs),
            "cpu_ms": _median(closed[each.name], "cpu_ms"),
            "recall@100": None,
            "swap_failed": None,
        }
        if each is ours:
            result.ours |= {k: v for k, v in figures.items() if v is not None}
            result.details["p99_ms_per_round"] = [run["p99_ms"] for run in runs]
        else:
            result.baselines[each.name] = figures
    ratios = {
        name: [mine["rps"] / its["rps"] for mine, its in zip(closed["ours"], runs, strict=True)]
        for name, runs in closed.items()
        if name != "ours"
    }
    result.details["rps_ratio"] = {name: statistics.median(each) for name, each in ratios.items()}


def _swaps(ours: Server, place: Place, rate: float, *, seconds: float) -> dict[str, Any]:
    """Promote ten times under load, as the dashboard does, beside a quiet stretch as long."""
    say("quiet load")
    rewrites = place.rewrites()
    options = {"connections": 64, "rate": rate, "seconds": seconds}
    quiet = ours.load(place.bodies, **options)
    say(f"{SWAPS} swaps under load")
    load = start_load(ours.port, place.bodies, **options)
    url, switched = f"http://127.0.0.1:{ours.port}", []
    begin = time.perf_counter()
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in range(SWAPS):
            due = begin + (number + 0.5) * seconds / SWAPS  # evenly over the load
            time.sleep(max(0.0, due - time.perf_counter()))
            wanted = place.versions[number % 2]
            started = time.perf_counter()
            promotion = client.post(f"/v1/models/{MODEL_NAME}/promote", json={"version": wanted})
            promotion.raise_for_status()
            serves = functools.partial(_serves, client, wanted)
            until(serves, what=f"version {wanted}", seconds=30)
            switched.append(time.perf_counter() - started)
    loaded = finish(load)
    return {
        "swaps": SWAPS,
        "seconds": seconds,
        "failed": loaded["failed"],
        "requests": sum(loaded["statuses"].values()),
        "statuses": loaded["statuses"],
        "p99_ms": loaded["p99_ms"],
        "quiet_p99_ms": quiet["p99_ms"],
        "quiet_failed": quiet["failed"],
        "max_ms": loaded["max_ms"],
        "quiet_max_ms": quiet["max_ms"],
        "switched_s": statistics.median(switched),
        "p99_ms_per_second": _per_second(loaded),
        "quiet_p99_ms_per_second": _per_second(quiet),
        "redis_rewrites": place.rewrites() - rewrites,
    }


def _per_second(load: dict[str, Any]) -> list[float | None]:
    return [second["p99_ms"] for second in load["timeline"]]


def _serves(client: httpx.Client, version: str) -> bool:
    return bool(client.get("/readyz").json()["model_version"] == version)


def _overload(ours: Server, place: Place, capacity: float, *, seconds: float) -> dict[str, Any]:
    """Five times what was sustained, then half of it: what is served in time, and recovery."""
    say(f"overload: {OVERLOAD} × {capacity:.0f} requests/s")
    before_mb = ours.resident_mb()
    options = {"connections": 512, "rate": OVERLOAD * capacity, "seconds": seconds, "drain_s": 0}
    load = start_load(ours.port, place.bodies, **options)
    peak_mb = before_mb
    while load.poll() is None:
        peak_mb = max(peak_mb, ours.resident_mb())
        time.sleep(0.5)
    burst = finish(load)
    time.sleep(RECOVERS_WITHIN_S)  # so long it may take to recover
    after = ours.load(place.bodies, connections=64, rate=capacity / 2, seconds=3)
    return {
        "offered_rps": burst["offered_rps"],
        "served_rps": burst["rps"],
        "served_p50_ms": burst["served_p50_ms"],
        "served_p99_ms": burst["served_p99_ms"],
        "statuses": burst["statuses"],
        "resident_mb_before": before_mb,
        "resident_mb_peak": peak_mb,
        "alive": ours.alive(),
        "recovered_p99_ms": after["p99_ms"],
        "recovered_failed": after["failed"],
    }


def _large(n_items: int, *, seconds: float) -> dict[str, Any]:
    say(f"making {n_items:,} items × 64")
    spec = IndexSpec(kind="flat")
    world = make_world(n_items=n_items, d=64, n_users=2_000, spec=spec, noise=NOISE_64)
    with Place(world, target_recall=TARGET_RECALL["large"]) as place, place.ours() as ours:
        found = recall_over_http(ours, place.world, quick=False)
        ours.load(place.bodies, connections=CONNECTIONS, seconds=seconds)
        saturated = ours.load(place.bodies, connections=CONNECTIONS, seconds=seconds)
        calm = [
            ours.load(place.bodies, connections=64, rate=saturated["rps"] / 5, seconds=seconds)
            for _ in range(3)
        ]
        alone = ours.load(place.bodies, connections=1, seconds=seconds)
        return {
            "items": n_items,
            "recall@100": found,
            "rps": saturated["rps"],
            "p50_ms": _median(calm, "p50_ms"),
            "p99_ms": _median(calm, "p99_ms"),
            "one_connection_p50_ms": alone["p50_ms"],
            "resident_mb": ours.resident_mb(),
            "index": place.report,
        }


def recall_over_http(ours: Server, world: World, *, quick: bool) -> float:
    """Share of the exact best 100 by score, seen items left out, that the service returns."""
    n = 100 if quick else 300
    edition, histories = world.edition, world.histories[:n]
    users = world.user_vectors(n)
    offset = edition.bias * edition.scoring.temperature
    best = exact_top(edition.item_vectors, users, K + histories.shape[1], offset=offset)
    found, wanted = [], []
    row_of = edition.catalogue.row_of
    with httpx.Client(base_url=f"http://127.0.0.1:{ours.port}", timeout=30) as client:
        for user, (rows, history) in enumerate(zip(best, histories, strict=True)):
            body = {"user_id": f"u{user}", "k": K}
            answer = client.post("/v1/recommendations", json=body).json()
            found.append([row_of[item["item_id"]] for item in answer["items"]])
            wanted.append(rows[~np.isin(rows, history)][:K])
    return recall(np.array(wanted), np.array(found))


def _median(runs: list[dict[str, Any]], name: str) -> float | None:
    values = [run[name] for run in runs if run[name] is not None]
    return statistics.median(values) if values else None


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
