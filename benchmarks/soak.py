"""Serve under steady load for a while, and see whether memory grows.

    python -m benchmarks.soak --minutes 10 [--rate 40] [--warm-up 3]

`errata serve` with one worker, and a Redis of its own. A client asks for recommendations and says
what was taken of them, in turn, at a fixed rate, so that the error memory learns; every
`--swap-every` seconds the other of two versions is promoted, and an item is added. The memory of
the serving process is read once a second.

What is bounded is filled before it is measured. The error memory of either version begins with as
many outcomes as its tables hold: pages that outcomes touch for the first time, at this rate for
hours. Users begin with histories of full length: a process remembers those whom it saw last, for
when Redis is away, and each outcome makes one of them longer until then. And for `--warm-up`
minutes the same load runs with a promotion every few seconds, so that every user is remembered, and
every thread that loads versions has done so.

What is measured is anonymous memory (`RssAnon`): what the process itself asked for. The resident
memory also counts pages of mapped files, the libraries and the index, which the system takes away
and brings back as it likes. `slope_mb_per_hour` is the least-squares slope, with the standard error
of its estimate, over the least memory between each two promotions: while a version is loaded
beside the other the memory jumps, and the jumps say nothing of what stays.
`slope_samples_mb_per_hour` is of every sample. `failed` counts answers that were no 2xx, or none
at all: it must be 0. `failed_at_s` says when, for whoever stops a process beside it. A
request whose connection was closed meanwhile (the service does so after 75 s of silence, which a
starved client may keep) is sent once more, as a load balancer does; `retried` counts them.
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

from benchmarks.harness import Result, parse
from benchmarks.serving.processes import Server, server
from benchmarks.serving.store import RedisServer, free_port
from benchmarks.serving.world import World, make_world
from feature_store.editions.memory_keys import D_PART
from feature_store.editions.recommender import MODEL_NAME
from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.log import MemoryLog
from feature_store.online import connect
from feature_store.online.store import HISTORY_LENGTH
from feature_store.registry import Registry
from feature_store.vectors import IndexSpec
from services.recommend.memory_policy import DEFAULT_POLICY

TIMEOUT_S = 10.0
SAMPLE_EVERY_S = 1.0
# As many again as the tables hold: where outcomes fall evenly, nearly every place is then taken.
REMEMBERED = 2 * DEFAULT_POLICY.capacity
AT_ONCE = 256
SWAPS_OF_WARM_UP = 20


@dataclass(frozen=True)
class Slope:
    """Of memory over time, MB an hour, and the standard error of its estimate."""

    mb_per_hour: float
    standard_error: float

    @classmethod
    def of(cls, seen: list[tuple[float, float]]) -> Slope:
        """By least squares, of (seconds, MB); 0 where there are too few."""
        if len(seen) < 3:
            return cls(0.0, 0.0)
        hours, mb = np.array(seen).T / np.array([[3_600.0], [1.0]])
        (slope, at_zero), spread = np.polyfit(hours, mb, 1), np.square(hours - hours.mean()).sum()
        left = np.square(mb - at_zero - slope * hours).sum() / (len(seen) - 2)
        return cls(float(slope), float(np.sqrt(left / spread)))


@dataclass
class Soak:
    """What was seen.

    Attributes:
        anonymous, resident: (seconds, MB) once a second.
        latency_ms: of every recommendation.
        failed_at_s: since the start, of each failure.
    """

    anonymous: list[tuple[float, float]] = field(default_factory=list)
    resident: list[tuple[float, float]] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    requests: int = 0
    retried: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed_at_s: list[float] = field(default_factory=list)
    swaps: int = 0
    versions: set[str] = field(default_factory=set)


def floors(samples: list[tuple[float, float]], every_s: float) -> list[tuple[float, float]]:
    """The least memory of each `every_s` seconds, and when it was seen."""
    found: dict[int, tuple[float, float]] = {}
    for seconds, mb in samples:
        place = int(seconds / every_s)
        found[place] = min(found.get(place, (seconds, mb)), (seconds, mb), key=lambda x: x[1])
    return list(found.values())


def main() -> None:
    """Serve, ask, and print how memory went."""
    options = {
        "--minutes": {"type": float, "default": 10.0, "help": "how long; default 10"},
        "--warm-up": {"type": float, "default": 3.0, "help": "minutes before them; default 3"},
        "--rate": {"type": float, "default": 40.0, "help": "requests a second; default 40"},
        "--swap-every": {"type": float, "default": 30.0, "help": "seconds between two promotions"},
    }
    arguments = parse(__doc__, data=None, seeds=1, options=options)
    seconds = 20.0 if arguments.quick else 60 * arguments.extra.minutes
    warm_up_s = 5.0 if arguments.quick else 60 * arguments.extra.warm_up
    swap_every_s = min(arguments.extra.swap_every, seconds / 4)
    result = Result("soak")
    warm, seen = soak(
        seconds=seconds,
        warm_up_s=warm_up_s,
        rate=arguments.extra.rate,
        swap_every_s=swap_every_s,
    )
    least = floors(seen.anonymous, swap_every_s)
    slope, of_samples = Slope.of(least), Slope.of(seen.anonymous)
    mb = [each for _, each in seen.anonymous]
    result.ours = {
        "slope_mb_per_hour": slope.mb_per_hour,
        "slope_standard_error": slope.standard_error,
        "slope_samples_mb_per_hour": of_samples.mb_per_hour,
        "first_mb": mb[0],
        "middle_mb": mb[len(mb) // 2],
        "last_mb": mb[-1],
        "largest_mb": max(mb),
        "resident_last_mb": seen.resident[-1][1],
        "requests": seen.requests,
        "retried": seen.retried + warm.retried,
        "failed": seen.failures.total() + warm.failures.total(),
        "swaps": seen.swaps,
        "versions_seen": len(seen.versions),
        "p50_ms": float(np.percentile(seen.latency_ms, 50)),
        "p99_ms": float(np.percentile(seen.latency_ms, 99)),
    }
    result.details["failures"] = dict(seen.failures + warm.failures)
    result.details["failed_at_s"] = [round(each) for each in seen.failed_at_s]
    result.details["floors_mb"] = [round(each, 1) for _, each in least]
    result.details["warm_up_mb"] = [round(each, 1) for _, each in floors(warm.anonymous, 30.0)]
    result.print()


def soak(
    *, seconds: float, warm_up_s: float, rate: float, swap_every_s: float
) -> tuple[Soak, Soak]:
    """Load a service for `seconds` at `rate` requests a second; what was seen in the warm-up
    before, and what then."""
    with tempfile.TemporaryDirectory(prefix="errata-soak-") as folder:
        home = Path(folder)
        store = RedisServer(home)
        store.start()
        try:
            world = make_world(
                n_items=5_000, d=32, n_users=300, spec=IndexSpec(), history_length=HISTORY_LENGTH
            )
            registry = Registry(str(home / "registry"))
            versions = [world.publish(registry, home / f"staging-{n}") for n in range(2)]
            world.fill_redis(store.url)
            for version in versions:
                _remember(store.url, version)
            port = free_port()
            env = {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": store.url}
            command = ["errata", "serve", "--port", str(port)]
            with (
                server("errata", command, port=port, probe="/readyz", env=env) as service,
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client,
            ):
                load = _Load(client, world, service, registry, versions)
                often_s = warm_up_s / SWAPS_OF_WARM_UP
                warm = load.run(seconds=warm_up_s, rate=rate, swap_every_s=often_s)
                return warm, load.run(seconds=seconds, rate=rate, swap_every_s=swap_every_s)
        finally:
            store.kill()


def _remember(url: str, version: str) -> None:
    """As many outcomes of a version as its memory has places for."""
    rng = np.random.default_rng(0)
    with connect(url, timeout_s=30) as client:
        memory = MemoryLog(client, model=MODEL_NAME, version=version)
        for _ in range(REMEMBERED // AT_ONCE):
            keys = rng.standard_normal((AT_ONCE, 2 * D_PART), dtype=np.float32)
            keys /= np.linalg.norm(keys, axis=1, keepdims=True)
            predictions = rng.uniform(0.02, 0.5, (AT_ONCE, 1)).astype(np.float32)
            labels = (rng.random((AT_ONCE, 1)) < predictions).astype(np.float32)
            sources = rng.integers(1, 2**63, AT_ONCE, dtype=np.uint64)
            memory.append(ErrorBatch.of(keys, labels, predictions, sources=sources))


@dataclass
class _Load:
    client: httpx.Client
    world: World
    service: Server
    registry: Registry
    versions: list[str]
    promoted: int = 0
    started: float = 0.0
    seen: Soak = field(default_factory=Soak)

    def run(self, *, seconds: float, rate: float, swap_every_s: float) -> Soak:
        """A request every 1/rate s; a sample of the memory every second; a swap now and then."""
        self.seen = Soak()
        self.started = started = time.monotonic()
        rng = np.random.default_rng(0)
        sampled = swapped = 0
        shown: list[tuple[str, str, str]] = []
        while (now := time.monotonic() - started) < seconds:
            due = self.seen.requests / rate
            if due > now:
                time.sleep(due - now)
            if now >= sampled * SAMPLE_EVERY_S:
                sampled += 1
                self.seen.anonymous.append((now, self.service.anonymous_mb()))
                self.seen.resident.append((now, self.service.resident_mb()))
            if now >= (swapped + 1) * swap_every_s:
                swapped += 1
                self._swap()
            if len(shown) < 2:
                shown += self._recommendation(rng)
            else:
                self._feedback(*shown.pop(), taken=rng.random() < 0.7)
        return self.seen

    def _recommendation(self, rng: np.random.Generator) -> list[tuple[str, str, str]]:
        user = self.world.user_ids[rng.integers(len(self.world.user_ids))]
        before = time.perf_counter()
        answer = self._send("POST", "/v1/recommendations", {"user_id": user, "k": 20})
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
        self._send("POST", "/v1/feedback", body)

    def _swap(self) -> None:
        self.promoted += 1
        version = self.versions[self.promoted % len(self.versions)]
        self.registry.promote(MODEL_NAME, version, alias="champion")
        self.seen.swaps += 1
        known = self.world.edition.catalogue.item_ids[self.promoted]
        body = {"item_type": "book", "title": f"new {self.promoted}", "like": [known]}
        self._send("PUT", f"/v1/items/new-{self.promoted % 10}", body)

    def _send(self, method: str, path: str, body: Mapping[str, object]) -> dict[str, Any] | None:
        self.seen.requests += 1
        try:
            try:
                answer = self.client.request(method, path, json=body)
            except httpx.RemoteProtocolError:
                self.seen.retried += 1
                answer = self.client.request(method, path, json=body)
        except httpx.HTTPError as error:
            self._failed(type(error).__name__)
            return None
        if answer.is_success:
            return dict(answer.json())
        self._failed(f"{answer.status_code} {answer.json().get('title')}")
        return None

    def _failed(self, how: str) -> None:
        self.seen.failures[how] += 1
        self.seen.failed_at_s.append(time.monotonic() - self.started)


if __name__ == "__main__":
    main()
