"""Ten thousand requests and ten thousand captures that nobody should send.

    python -m benchmarks.fuzz [--quick] [--requests 10000] [--captures 10000] [--data FOLDER]

`errata serve` with both models and a Redis of its own answers, one after another: requests that
schemathesis makes up from the OpenAPI document (a third; extra `dev`), right requests of every
route with bytes of their body, path and headers changed (the rest), and uploads of mutated
captures. Captures are mutated from the small ones of FOLDER: bits flipped, ranges overwritten, cut,
repeated, swapped with another capture's, and 16- and 32-bit fields set to their extremes.

`server_errors` counts answers from 500 on, `crashes` deaths of the serving process, `hangs`
requests without an answer within 10 s: all of them must be 0. A 503 is a failure like any other:
one request is sent after the other, so that the service is not overloaded, and its deadlines are
such that a busy machine is no fault. The first failing inputs are kept in `--keep FOLDER`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson

from benchmarks.harness import Result, parse
from benchmarks.serving.hostile import ENDLESS, Example, changed, mutated, small_captures
from benchmarks.serving.processes import Server, server
from benchmarks.serving.store import RedisServer, free_port, until
from benchmarks.serving.world import make_world
from benchmarks.stream_latency import slowest_edition
from feature_store.registry import Registry
from feature_store.registry.names import TRAFFIC
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import open_capture
from feature_store.traffic.flows import FlowBatch
from feature_store.vectors import IndexSpec
from pipelines.traffic.config import TrafficConfig

HANG_S = 10.0
PATIENT = [f"--set=limits.{name}=9000" for name in ("deadline_ms", "redis_ms")]
FEW_TREES = TrafficConfig().changed(**{"tree.rounds": 20, "forest.trees": 20})
MADE_UP_SHARE = 1 / 3
KEPT_FAILURES = 20


@dataclass
class Tally:
    """What became of one kind of input.

    Attributes:
        statuses: answers by status.
        failures: the first failing inputs: what happened, and what was sent.
    """

    sent: int = 0
    server_errors: int = 0
    crashes: int = 0
    hangs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Inputs that were not answered as they must be."""
        return self.server_errors + self.crashes + self.hangs


@dataclass(frozen=True)
class Target:
    """A service, and how to know that it lives."""

    client: httpx.Client
    service: Server

    def send(self, tally: Tally, request: httpx.Request) -> None:
        """Send, and count what comes of it."""
        tally.sent += 1
        try:
            answer = self.client.send(request)
        except httpx.TimeoutException:
            tally.hangs += 1
            self._failed(tally, "no answer", request)
        except httpx.HTTPError as error:
            # A server may hang up on what is no HTTP; a dead one is another matter.
            if not self.service.alive():
                tally.crashes += 1
                self._failed(tally, f"the server died: {error}", request)
                raise RuntimeError(f"the server died at {request.url}") from error
            tally.statuses[0] += 1
        else:
            self.count(tally, answer.status_code, request)

    def count(self, tally: Tally, status: int, request: httpx.Request, *, what: str = "") -> None:
        """Count an answer."""
        tally.statuses[status] += 1
        if status >= 500:
            tally.server_errors += 1
            self._failed(tally, f"{status} {what}", request)

    def _failed(self, tally: Tally, what: str, request: httpx.Request) -> None:
        if len(tally.failures) < KEPT_FAILURES:
            head = f"{what} {request.method} {request.url}"
            tally.failures.append((head, request.content))


def main() -> None:
    """Fuzz, and print what was found."""
    options: dict[str, dict[str, Any]] = {
        "--requests": {"type": int, "help": "default: 10000, or 600 with --quick"},
        "--captures": {"type": int, "help": "default: 10000, or 600 with --quick"},
        "--keep": {"type": Path, "help": "folder for the inputs that failed"},
    }
    arguments = parse(__doc__, data="traffic/robust", seeds=1, options=options)
    extra, most = arguments.extra, 600 if arguments.quick else 10_000
    result = Result("fuzz")
    requests, captures = fuzz(
        arguments.data,
        requests=most if extra.requests is None else extra.requests,
        captures=most if extra.captures is None else extra.captures,
    )
    for name, tally in (("requests", requests), ("captures", captures)):
        result.ours |= {
            name: tally.sent,
            f"{name}_server_errors": tally.server_errors,
            f"{name}_crashes": tally.crashes,
            f"{name}_hangs": tally.hangs,
        }
        result.details[f"{name}_statuses"] = {str(k): n for k, n in sorted(tally.statuses.items())}
        for number, (what, content) in enumerate(tally.failures):
            print(f"{name}: {what}: {content[:200]!r}")
            if extra.keep:
                extra.keep.mkdir(parents=True, exist_ok=True)
                (extra.keep / f"{name}-{number}").write_bytes(content)
    result.print()


def fuzz(data: Path, *, requests: int, captures: int, seed: int = 0) -> tuple[Tally, Tally]:
    """So many requests and captures at a service of its own; what became of them."""
    rng = np.random.default_rng(seed)
    seeds = small_captures(data)
    told, read = Tally(), Tally()
    with tempfile.TemporaryDirectory(prefix="errata-fuzz-") as folder:
        home = Path(folder)
        store = RedisServer(home)
        store.start()
        try:
            port = free_port()
            examples = _publish(home, store.url, seeds)
            env = {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": store.url}
            command = ["errata", "serve", "--port", str(port), *PATIENT]
            with (
                server("errata", command, port=port, probe="/readyz", env=env) as service,
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client,
            ):
                target = Target(client, service)
                until(lambda: _classifies(client, seeds[0]), what="the traffic model", seconds=120)
                made_up = round(requests * MADE_UP_SHARE)
                _made_up(target, told, made_up)
                for request in changed(client, examples, rng, requests - told.sent):
                    target.send(told, request)
                for body in mutated(seeds, rng, captures):
                    target.send(read, client.build_request("POST", "/v1/classify", content=body))
                # All that was survived is worth nothing where the last right question fails.
                answer = client.post("/v1/recommendations", json={"user_id": "u0", "k": 5})
                told.server_errors += not answer.is_success
        finally:
            store.kill()
    return told, read


def _made_up(target: Target, tally: Tally, n: int) -> None:
    """`n` requests from the OpenAPI document, by schemathesis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, settings

        schema = schemathesis.openapi.from_url(f"{target.client.base_url}/openapi.json")
        found: Iterable[Any] = schema.get_all_operations()
        operations = [each.ok() for each in found]
    operations = [each for each in operations if each.path != ENDLESS]
    # What an operation may be asked takes longer to work out than to ask: of few requests, some do.
    operations = operations[:: max(1, -(-len(operations) // max(n, 1)))]
    for number, operation in enumerate(operations):
        share = (n - tally.sent) // (len(operations) - number)

        def ask(case: Any) -> None:
            tally.sent += 1
            url = f"{case.method} {case.formatted_path}"
            request = httpx.Request(case.method, str(target.client.base_url))
            try:
                answer = case.call(timeout=HANG_S)
            except Exception as error:  # of requests, which schemathesis asks with
                if not target.service.alive():
                    tally.crashes += 1
                    raise RuntimeError(f"the server died at {url}") from error
                tally.hangs += "timed out" in str(error).lower()
                tally.statuses[0] += 1
            else:
                target.count(tally, answer.status_code, request, what=f"{url} {case.body!r}")

        effort = settings(
            max_examples=max(share, 1),
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        run: Callable[[], None] = effort(given(case=operation.as_strategy())(ask))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()


def _publish(home: Path, redis_url: str, seeds: list[bytes]) -> list[Example]:
    """Both models, and a right request of every route."""
    registry = Registry(str(home / "registry"))
    world = make_world(n_items=500, d=16, n_users=50, spec=IndexSpec())
    world.publish(registry, home / "staging-recommender")
    world.fill_redis(redis_url)
    flows = _flows(seeds, home)
    staging = home / "staging-traffic"
    staging.mkdir()
    slowest_edition(flows, network_weight=0.5, config=FEW_TREES).save(staging)
    version = registry.publish(
        TRAFFIC, staging, data_fingerprint="fuzz", code_version="benchmark", config={}, metrics={}
    ).version
    registry.promote(TRAFFIC, version, alias="champion")
    user, item = world.user_ids[0], world.edition.catalogue.item_ids[0]
    packet = {"size": 100, "direction": 1, "gap_s": 0.1}
    asked = {"history": [item], "k": 5, "explain": True, "item_types": ["book"], "exclude": [item]}
    told = {"user_id": user, "item_id": item, "type": "click", "weight": 1.0, "feedback_id": "f"}
    added = {"item_type": "book", "title": "new", "like": [item], "columns": {}}
    label = {"prediction_id": "p", "label": "l"}
    flows_asked = {"flows": [{"id": "a", "packets": [packet]}]}
    return [
        Example("POST", "/v1/recommendations", orjson.dumps({"user_id": user, "k": 10})),
        Example("POST", "/v1/recommendations", orjson.dumps(asked)),
        Example("GET", f"/v1/items/{item}/similar"),
        Example("POST", "/v1/feedback", orjson.dumps(told)),
        Example("PUT", "/v1/items/fuzz", orjson.dumps(added)),
        Example("DELETE", "/v1/items/fuzz"),
        Example("POST", "/v1/labels", orjson.dumps(label)),
        Example("POST", "/v1/feedback", orjson.dumps(label)),
        Example("POST", "/v1/classify", orjson.dumps(flows_asked)),
        Example("GET", "/v1/models"),
        Example("GET", "/readyz"),
        Example("GET", "/metrics"),
    ]


def _flows(seeds: list[bytes], home: Path) -> FlowBatch:
    found: list[FlowBatch] = []
    path = home / "seed"
    for body in seeds:
        path.write_bytes(body)
        with open_capture(path) as packets:
            found += list(read_flows(packets, FlowMeter()))
    return FlowBatch.concatenate(found)


def _classifies(client: httpx.Client, capture: bytes) -> bool:
    try:
        return client.post("/v1/classify", content=capture).status_code < 500
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
