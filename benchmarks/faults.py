"""Kill, stall and starve what the service needs, under light load, and count what was lost.

    python -m benchmarks.faults [--quick] [--faults redis_killed,disk_full]

`errata serve` with two workers, and a Redis of its own. A client asks for recommendations and sends
feedback at a fixed rate while each fault lasts and until the service is well again. A request whose
connection broke is sent once more, as a load balancer does; `retried` counts them.

`lost` counts acknowledged feedback that is in the end not in the offline log, or not in Redis: it
must be 0. `availability` is the share of requests that were answered with a 2xx; `degraded` the
share of answers that said so. Where the disk is full, feedback cannot be kept and must not be
acknowledged: it is refused with 503 until there is room, `refused` counts it apart, and
availability is that of all else. `volume_full` fills a small file system of its own, which holds
the feedback; where none may be mounted it is left out, and said to be. In `disk_full` no process of
the service may write to any file.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.harness import Result, parse
from benchmarks.serving.clock import JumpingClock
from benchmarks.serving.processes import Server, server
from benchmarks.serving.store import RedisServer, free_port, until
from benchmarks.serving.world import World, make_world
from feature_store.offline import FeedbackLog
from feature_store.registry import Registry
from feature_store.vectors import IndexSpec

TIMEOUT_S = 5.0


@dataclass
class Tally:
    """What one client saw."""

    requests: int = 0
    answered: int = 0
    degraded: int = 0
    retried: int = 0
    refused: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    acknowledged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def availability(self) -> float:
        """Share of the requests with a 2xx."""
        return self.answered / max(self.requests, 1)


@dataclass(frozen=True)
class Scene:
    """What a fault is done to."""

    home: Path
    redis: RedisServer
    service: Server
    clock: JumpingClock
    volume: Path


@contextmanager
def nothing(_: Scene) -> Iterator[None]:
    """The measure of the others."""
    yield


@contextmanager
def redis_killed(scene: Scene) -> Iterator[None]:
    """SIGKILL; started again on the same files."""
    scene.redis.kill()
    yield
    scene.redis.start()


@contextmanager
def redis_stalled(scene: Scene) -> Iterator[None]:
    """SIGSTOP: it accepts connections and says nothing."""
    scene.redis.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        scene.redis.signal(signal.SIGCONT)


@contextmanager
def redis_slow(scene: Scene) -> Iterator[None]:
    """Five times a second it says nothing for 150 ms: below the time-out, above patience."""
    stop = threading.Event()

    def pause() -> None:
        with scene.redis.client() as client:
            while not stop.wait(0.2):
                client.execute_command("CLIENT", "PAUSE", "150", "ALL")

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def redis_read_only(scene: Scene) -> Iterator[None]:
    """A replica of a master that is away, as in the middle of a failover."""
    with scene.redis.client() as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def disk_full(scene: Scene) -> Iterator[None]:
    """No process of the service may write a byte to a file."""
    before = {pid: _limit(pid, 0) for pid in scene.service.pids()}
    try:
        yield
    finally:
        for pid, limit in before.items():
            _limit(pid, limit)


@contextmanager
def volume_full(scene: Scene) -> Iterator[None]:
    """The file system of the feedback has no room left."""
    ballast = scene.volume / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4_096))
    yield
    ballast.unlink()


@contextmanager
def registry_away(scene: Scene) -> Iterator[None]:
    """The volume with the versions is gone."""
    there, away = scene.home / "registry", scene.home / "registry.away"
    there.rename(away)
    yield
    away.rename(there)


@contextmanager
def worker_killed(scene: Scene) -> Iterator[None]:
    """SIGKILL to one of two workers."""
    parent, *children = scene.service.pids()
    workers = [pid for pid in children if b"spawn_main" in _command(pid)] or [parent]
    os.kill(workers[-1], signal.SIGKILL)
    yield


@contextmanager
def clock_ahead(scene: Scene) -> Iterator[None]:
    """The service's wall clock jumps an hour ahead, and back."""
    yield from _jump(scene, 3_600)


@contextmanager
def clock_back(scene: Scene) -> Iterator[None]:
    """The service's wall clock jumps back a day, and ahead again."""
    yield from _jump(scene, -86_400)


def _jump(scene: Scene, seconds: int) -> Iterator[None]:
    scene.clock.jump(seconds)
    try:
        yield
    finally:
        scene.clock.jump(0)


FAULTS = {
    each.__name__: each
    for each in (
        nothing,
        redis_killed,
        redis_stalled,
        redis_slow,
        redis_read_only,
        disk_full,
        volume_full,
        registry_away,
        worker_killed,
        clock_ahead,
        clock_back,
    )
}
# While these last, feedback cannot be kept and must be refused.
NOT_KEPT = (disk_full.__name__, volume_full.__name__)
VOLUME_BYTES = 8 << 20


def main() -> None:
    """Run every fault and print what became of requests and feedback."""
    options = {"--faults": {"default": ",".join(FAULTS), "help": "which, by name"}}
    arguments = parse(__doc__, data=None, seeds=1, options=options)
    names = arguments.extra.faults.split(",")
    if unknown := sorted(set(names) - set(FAULTS)):
        raise SystemExit(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    result = Result("faults")
    tallies, lost = measure(
        names, seconds=2.0 if arguments.quick else 8.0, rate=20.0 if arguments.quick else 40.0
    )
    for name, tally in tallies.items():
        result.details[name] = {
            "availability": tally.availability,
            "degraded": tally.degraded / max(tally.answered, 1),
            "retried": tally.retried,
            "refused": tally.refused,
            "failures": tally.failures,
        }
    total = Tally(
        requests=sum(each.requests - each.refused for each in tallies.values()),
        answered=sum(each.answered for each in tallies.values()),
        degraded=sum(each.degraded for each in tallies.values()),
    )
    result.ours = {
        "lost": lost,
        "acknowledged": sum(len(each.acknowledged) for each in tallies.values()),
        "availability": total.availability,
        "degraded": total.degraded / max(total.answered, 1),
    }
    result.print()


def measure(
    names: list[str], *, seconds: float, rate: float, workers: int = 2
) -> tuple[dict[str, Tally], int]:
    """Do each fault for `seconds` at `rate` requests a second; what was seen, and what was lost."""
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="errata-faults-") as folder:
        home = Path(folder)
        store = RedisServer(home)
        store.start()
        mounted = _mount(home / "offline")
        if not mounted and volume_full.__name__ in names:
            print("volume_full: left out, for no file system may be mounted here")
            names = [each for each in names if each != volume_full.__name__]
        try:
            world = _publish(home)
            world.fill_redis(store.url)
            port = free_port()
            command = ["errata", "serve", "--port", str(port), "--workers", str(workers)]
            clock = JumpingClock(home)
            env = {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": store.url} | clock.env
            with server("errata", command, port=port, probe="/readyz", env=env) as service:
                scene = Scene(home, store, service, clock, home / "offline")
                url = f"http://127.0.0.1:{port}"
                for name in names:
                    tally = Tally()
                    # Apart from the faults' own: a connection that a fault broke is replaced.
                    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
                        with FAULTS[name](scene):
                            _ask(client, world, tally, seconds=seconds, rate=rate, name=name)
                        until(lambda: _well(client, home), what=f"recovery from {name}")
                        after = f"{name}_after"
                        _ask(client, world, tally, seconds=seconds / 4, rate=rate, name=after)
                    tallies[name] = tally
                    print(f"{name:16} {tally.availability:8.3%} {len(tally.acknowledged)} kept")
                until(lambda: not _waiting(home), what="the queue of feedback")
            return tallies, _lost(home, store, tallies)
        finally:
            store.kill()
            if mounted:
                _tool("umount", "--lazy", str(home / "offline"))


def _ask(
    client: httpx.Client, world: World, tally: Tally, *, seconds: float, rate: float, name: str
) -> None:
    """Recommendations and feedback in turn, a request every 1/rate s."""
    started = time.monotonic()
    users, items = world.user_ids, world.edition.catalogue.item_ids
    number = 0
    while (now := time.monotonic()) - started < seconds:
        due = started + number / rate
        if due > now:
            time.sleep(due - now)
        turn, number = tally.requests, number + 1
        user = users[turn % len(users)]
        if turn % 2:
            feedback_id = f"{name}-{turn}"
            body = {"user_id": user, "item_id": items[turn % len(items)], "type": "click"}
            said = _post(client, tally, "/v1/feedback", body | {"feedback_id": feedback_id})
            if said is not None:
                tally.acknowledged.append((user, feedback_id))
            elif name in NOT_KEPT:
                tally.refused += 1
        else:
            _post(client, tally, "/v1/recommendations", {"user_id": user, "k": 10})


def _post(
    client: httpx.Client, tally: Tally, path: str, body: Mapping[str, object]
) -> dict[str, object] | None:
    tally.requests += 1
    for attempt in (1, 2):
        try:
            answer = client.post(path, json=body)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            if attempt == 1:
                tally.retried += 1
                continue
            failure = type(error).__name__
        except httpx.TimeoutException as error:
            failure = type(error).__name__
        else:
            if answer.is_success:
                said: dict[str, object] = answer.json()
                tally.answered += 1
                tally.degraded += bool(said["degraded"])
                return said
            failure = f"{answer.status_code} {path}"
        tally.failures[failure] = tally.failures.get(failure, 0) + 1
        break
    return None


def _lost(home: Path, store: RedisServer, tallies: dict[str, Tally]) -> int:
    """Acknowledged outcomes that are not in the log, or not in Redis."""
    table = FeedbackLog(home / "offline" / "feedback").read()
    logged = set(zip(table["user_id"].to_list(), table["feedback_id"].to_list(), strict=True))
    acknowledged = [each for tally in tallies.values() for each in tally.acknowledged]
    with store.client() as client, client.pipeline(transaction=False) as pipeline:
        for user, feedback_id in acknowledged:
            pipeline.exists(f"errata:default:feedback:{user}\0{feedback_id}")
        online = pipeline.execute()
    return sum(
        each not in logged or not seen for each, seen in zip(acknowledged, online, strict=True)
    )


def _publish(home: Path) -> World:
    world = make_world(n_items=2_000, d=16, n_users=200, spec=IndexSpec())
    with tempfile.TemporaryDirectory() as staging:
        world.publish(Registry(str(home / "registry")), Path(staging))
    return world


def _well(client: httpx.Client, home: Path) -> bool:
    try:
        return client.get("/readyz").json()["status"] == "ok" and not _waiting(home)
    except httpx.HTTPError:
        return False


def _waiting(home: Path) -> bool:
    return any((home / "offline").glob("spool.jsonl")) or any(
        (home / "offline").glob("spool.replaying")
    )


def _mount(directory: Path) -> bool:
    """A small file system of its own; False where that is not permitted."""
    directory.mkdir()
    size = f"size={VOLUME_BYTES}"
    return _tool("mount", "-t", "tmpfs", "-o", size, "errata-faults", str(directory))


def _tool(name: str, *arguments: str) -> bool:
    """Whether a tool of the system is there and did what it was told."""
    found = shutil.which(name)
    return (
        found is not None
        and not subprocess.run([found, *arguments], capture_output=True).returncode
    )


def _limit(pid: int, soft: int) -> int:
    before, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    return before


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


if __name__ == "__main__":
    main()
