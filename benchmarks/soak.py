"""Serve under steady load for a while, and see whether memory grows.

    python -m benchmarks.soak --minutes 10 [--rate 40]

`errata serve` with one worker, and a Redis of its own. A client asks for recommendations and says
what was taken of them, in turn, at a fixed rate, so that the error memory learns; every
`--swap-every` seconds the other of two versions is promoted, and an item is added. The resident
memory of the serving process is read once a second.

`slope_mb_per_hour` is the least-squares slope over the second half, when caches and memories of
both versions have been filled once, of the least memory between two promotions: while a version is
loaded beside the other the memory jumps, and the jumps say nothing of what stays.
`slope_samples_mb_per_hour` is of every sample of that half, `slope_all_mb_per_hour` includes the
start. `failed` counts answers that were no 2xx: it must be 0.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, parse
from benchmarks.serving.processes import Server, server
from benchmarks.serving.store import RedisServer, free_port
from benchmarks.serving.world import World, make_world
from feature_store.editions.recommender import MODEL_NAME
from feature_store.registry import Registry
from feature_store.vectors import IndexSpec

TIMEOUT_S = 10.0
SAMPLE_EVERY_S = 1.0


@dataclass
class Soak:
    """What was seen.

    Attributes:
        memory: (seconds, resident MB) once a second.
        latency_ms: of every recommendation.
    """

    memory: list[tuple[float, float]] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    swaps: int = 0
    versions: set[str] = field(default_factory=set)

    def slope_mb_per_hour(self, *, from_s: float = 0.0) -> float:
        """Least-squares slope of the memory from `from_s` on; 0 where too little was seen."""
        seen = np.array([each for each in self.memory if each[0] >= from_s])
        return _slope(seen)

    def floors(self, every_s: float) -> list[tuple[float, float]]:
        """The least memory of each `every_s` seconds, and when it was seen."""
        found: dict[int, tuple[float, float]] = {}
        for seconds, mb in self.memory:
            place = int(seconds / every_s)
            found[place] = min(found.get(place, (seconds, mb)), (seconds, mb), key=lambda x: x[1])
        return list(found.values())


def _slope(seen: NDArray[np.float64]) -> float:
    """MB an hour, of rows (seconds, MB)."""
    return float(np.polyfit(seen[:, 0], seen[:, 1], 1)[0] * 3_600) if len(seen) > 2 else 0.0


def main() -> None:
    """Serve, ask, and print how memory went."""
    options = {
        "--minutes": {"type": float, "default": 10.0, "help": "how long; default 10"},
        "--rate": {"type": float, "default": 40.0, "help": "requests a second; default 40"},
        "--swap-every": {"type": float, "default": 30.0, "help": "seconds between two promotions"},
    }
    arguments = parse(__doc__, data=None, seeds=1, options=options)
    seconds = 20.0 if arguments.quick else 60 * arguments.extra.minutes
    swap_every_s = min(arguments.extra.swap_every, seconds / 4)
    result = Result("soak")
    seen = soak(seconds=seconds, rate=arguments.extra.rate, swap_every_s=swap_every_s)
    resident = [mb for _, mb in seen.memory]
    floors = seen.floors(swap_every_s)
    late = [each for each in floors if each[0] >= seconds / 2]
    result.ours = {
        "slope_mb_per_hour": _slope(np.array(late)),
        "slope_samples_mb_per_hour": seen.slope_mb_per_hour(from_s=seconds / 2),
        "slope_all_mb_per_hour": seen.slope_mb_per_hour(),
        "first_mb": resident[0],
        "middle_mb": resident[len(resident) // 2],
        "last_mb": resident[-1],
        "largest_mb": max(resident),
        "requests": seen.requests,
        "failed": seen.failures.total(),
        "swaps": seen.swaps,
        "versions_seen": len(seen.versions),
        "p50_ms": float(np.percentile(seen.latency_ms, 50)),
        "p99_ms": float(np.percentile(seen.latency_ms, 99)),
    }
    result.details["failures"] = dict(seen.failures)
    result.details["floors_mb"] = [round(mb, 1) for _, mb in floors]
    result.print()


def soak(*, seconds: float, rate: float, swap_every_s: float) -> Soak:
    """Load a service for `seconds` at `rate` requests a second."""
    with tempfile.TemporaryDirectory(prefix="errata-soak-") as folder:
        home = Path(folder)
        store = RedisServer(home)
        store.start()
        try:
            world = make_world(n_items=5_000, d=32, n_users=1_000, spec=IndexSpec())
            registry = Registry(str(home / "registry"))
            versions = [world.publish(registry, home / f"staging-{n}") for n in range(2)]
            world.fill_redis(store.url)
            port = free_port()
            env = {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": store.url}
            command = ["errata", "serve", "--port", str(port)]
            with (
                server("errata", command, port=port, probe="/readyz", env=env) as service,
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client,
            ):
                load = _Load(client, world, service, registry, versions)
                return load.run(seconds=seconds, rate=rate, swap_every_s=swap_every_s)
        finally:
            store.kill()


@dataclass
class _Load:
    client: httpx.Client
    world: World
    service: Server
    registry: Registry
    versions: list[str]
    seen: Soak = field(default_factory=Soak)

    def run(self, *, seconds: float, rate: float, swap_every_s: float) -> Soak:
        """A request every 1/rate s; a sample of the memory every second; a swap now and then."""
        started = time.monotonic()
        rng = np.random.default_rng(0)
        sampled = swapped = 0
        shown: list[tuple[str, str, str]] = []
        while (now := time.monotonic() - started) < seconds:
            due = self.seen.requests / rate
            if due > now:
                time.sleep(due - now)
            if now >= sampled * SAMPLE_EVERY_S:
                sampled += 1
                self.seen.memory.append((now, self.service.resident_mb()))
            if now >= (swapped + 1) * swap_every_s:
                swapped += 1
                self._swap(swapped)
            if len(shown) < 2:
                shown += self._recommendation(rng)
            else:
                self._feedback(*shown.pop(), taken=rng.random() < 0.7)
        return self.seen

    def _recommendation(self, rng: np.random.Generator) -> list[tuple[str, str, str]]:
        user = self.world.user_ids[rng.integers(len(self.world.user_ids))]
        before = time.perf_counter()
        answer = self._post("/v1/recommendations", {"user_id": user, "k": 20})
        self.seen.latency_ms.append(1e3 * (time.perf_counter() - before))
        if answer is None:
            return []
        self.seen.versions.add(str(answer["model_version"]))
        items = [each["item_id"] for each in answer["items"]]
        if not items:
            return []
        return [(user, items[rng.integers(len(items))], str(answer["prediction_id"]))]

    def _feedback(self, user: str, item: str, prediction: str, *, taken: bool) -> None:
        kind = "click" if taken else "skip"
        body = {"user_id": user, "item_id": item, "prediction_id": prediction, "type": kind}
        self._post("/v1/feedback", body)

    def _swap(self, number: int) -> None:
        self.registry.promote(MODEL_NAME, self.versions[number % 2], alias="champion")
        self.seen.swaps += 1
        known = self.world.edition.catalogue.item_ids[number]
        body = {"item_type": "book", "title": f"new {number}", "like": [known]}
        self._count(self.client.put(f"/v1/items/new-{number % 10}", json=body))

    def _post(self, path: str, body: Mapping[str, object]) -> dict[str, Any] | None:
        answer = self.client.post(path, json=body)
        self._count(answer)
        return dict(answer.json()) if answer.is_success else None

    def _count(self, answer: httpx.Response) -> None:
        self.seen.requests += 1
        if not answer.is_success:
            self.seen.failures[f"{answer.status_code} {answer.json().get('title')}"] += 1


if __name__ == "__main__":
    main()
