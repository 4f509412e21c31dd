"""The cost of the error memory: to read it, to write it, to see what another wrote.

    python -m benchmarks.memory_read [--quick] [--entries N] [--classes C]

One core, one million entries (65,536 with --quick) of 32-dimensional keys and scores, or
probabilities of C classes, in a local table; a read corrects 256 candidates (`p50_ms`, `p99_ms`) or
one (`one_p50_us`). The baseline is the same correction with everything in Redis, where every
replica would see a write at once: one round trip fetches the packed buckets that the read looks at
and the mixture's weights, then the same compiled code runs on them, and says the same. Writes go
through the log of a real server, 64 entries a message; `visible_p99_ms` is the time from before the
append until a replica in another process has read it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.harness import Result, parse
from feature_store.error_memory import ErrorBatch, ErrorMemory, MemoryPolicy
from feature_store.error_memory.compiled import allocating
from feature_store.error_memory.hashing import bucket_of, code_of
from feature_store.error_memory.kernels import scratch
from feature_store.error_memory.lanes import products
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.passes import find_buckets, hear_neighbours, mix, read_sketch
from feature_store.error_memory.replica import MemoryReplica
from feature_store.error_memory.sketches import SketchTable
from feature_store.error_memory.wire import pack
from feature_store.online import EmbeddedRedis, connect

FloatArray = NDArray[np.float32]
D, CANDIDATES, MESSAGE = 32, 256, 64


def main() -> None:
    """Run the benchmark, or the replica that watches."""
    if sys.argv[1:2] == ["--replica"]:
        watch(sys.argv[2], int(sys.argv[3]))
        return
    options: dict[str, dict[str, Any]] = {
        "--entries": {"type": int, "default": None},
        "--classes": {"type": int, "default": 1},
    }
    arguments = parse(__doc__, data=None, seeds=1, options=options)
    n = arguments.extra.entries or (2**16 if arguments.quick else 2**20)
    classes = arguments.extra.classes
    rounds = 300 if arguments.quick else 2_000
    result = Result("memory_read")
    policy = reading_policy(n)
    memory = ErrorMemory(policy, d=D, n_classes=classes)
    rng = np.random.default_rng(0)
    wrote = time.perf_counter()
    for start in range(0, n, 4096):
        memory.write(entries(rng, min(4096, n - start), memory))
    result.details["table_writes_per_s"] = n / (time.perf_counter() - wrote)
    result.details["entries"] = len(memory)
    result.ours = read_times(memory, rng, rounds)
    with (
        tempfile.TemporaryDirectory(prefix="errata-") as folder,
        EmbeddedRedis(Path(folder)) as server,
    ):
        client = connect(server.url, timeout_s=30)
        result.baselines["redis_round_trip"] = redis_read_times(client, memory, rng, rounds // 10)
        client.flushall()
        result.ours |= write_times(client, server.url, memory, rng, quick=arguments.quick)
    stats = memory.stats()
    result.ours["table_bytes_per_entry"] = stats.bytes / n
    result.details["times_faster_than_redis"] = (
        result.baselines["redis_round_trip"]["p50_ms"] / result.ours["p50_ms"]
    )
    result.print()


def reading_policy(n: int) -> MemoryPolicy:
    """Six kernels and a sketch, as tuning tends to choose."""
    return MemoryPolicy.model_validate(
        {
            "capacity": n,
            "kernels": [{"beta": b, "half_life": h} for b in (10, 100, 1000) for h in (500, 5000)],
            "sketches": [{"bits": 12, "tables": 2, "half_life": 5000, "gamma": 0}],
        }
    )


def entries(rng: np.random.Generator, n: int, memory: ErrorMemory) -> ErrorBatch:
    """Keys around 500 centres, as a model's representations cluster."""
    centres = np.random.default_rng(1).standard_normal((500, D)) / D**0.5
    keys = centres[rng.integers(0, 500, n)] + 0.3 * rng.standard_normal((n, D)) / D**0.5
    classes = memory.n_classes
    truth = rng.integers(0, max(classes, 2), n)
    labels = truth[:, None] if classes == 1 else np.eye(classes)[truth]
    predictions = (
        rng.random((n, 1)) if classes == 1 else rng.dirichlet(np.full(classes, 0.3), size=n)
    )
    return ErrorBatch.of(
        keys.astype(np.float32),
        labels.astype(np.float32),
        predictions.astype(np.float32),
        losses=rng.random((n, memory.policy.n_experts + 1), np.float32),
    )


def read_times(memory: ErrorMemory, rng: np.random.Generator, rounds: int) -> dict[str, float]:
    """Quantiles of a local read."""
    many, one = [], []
    for _ in range(rounds):
        batch = entries(rng, CANDIDATES, memory)
        started = time.perf_counter()
        memory.read(batch.keys, batch.predictions)
        many.append(time.perf_counter() - started)
        key, prediction = batch.keys[:1], batch.predictions[:1]
        started = time.perf_counter()
        memory.read(key, prediction)
        one.append(time.perf_counter() - started)
    first = rounds // 10
    return {
        "p50_ms": float(np.quantile(many[first:], 0.5) * 1e3),
        "p99_ms": float(np.quantile(many[first:], 0.99) * 1e3),
        "one_p50_us": float(np.quantile(one[first:], 0.5) * 1e6),
        "one_p99_us": float(np.quantile(one[first:], 0.99) * 1e6),
    }


def redis_read_times(
    client: redis.Redis, memory: ErrorMemory, rng: np.random.Generator, rounds: int
) -> dict[str, float]:
    """The same read with a bucket a string in Redis, of the neighbours and of the sketch, and the
    mixture another: which buckets, one MGET, the same compiled passes, the same answer."""
    table, parameters, (sketch,) = memory._neighbours, memory._parameters, memory._sketches
    read = ("keys", "labels", "predictions", "weights", "sequence")
    columns = {name: getattr(table, name) for name in read}
    neighbours = np.dtype([(name, each.dtype, each.shape[1:]) for name, each in columns.items()])
    store(client, "b:{}", columns, neighbours)
    tables, n_buckets = sketch.updated.shape
    sums = sketch.sums.reshape(tables * n_buckets, -1)
    bucket = np.dtype([("sums", sums.dtype, sums.shape[1:]), ("updated", sketch.updated.dtype)])
    store(client, "s:{}", {"sums": sums, "updated": sketch.updated.ravel()}, bucket)
    client.set("weights", memory._mixture.weights.tobytes())
    here_sketch = sketch._replace(sums=sketch.sums.copy(), updated=sketch.updated.copy())
    here_sums, here_updated = here_sketch.sums.reshape(sums.shape), here_sketch.updated.ravel()
    shape = (CANDIDATES, memory.policy.n_experts, memory.n_classes)
    times = []
    for _ in range(max(rounds, 20)):
        batch = entries(rng, CANDIDATES, memory)
        started = time.perf_counter()
        room = scratch(table, parameters.kernels, CANDIDATES, parameters.probes)
        find_buckets(table, batch.keys, room)
        looked_at = np.arange(parameters.probes) < room.found[:, None]
        numbers, places = np.unique(room.wanted[looked_at], return_inverse=True)
        own = np.empty((CANDIDATES, tables), np.int64)
        find_sketch_buckets(sketch, batch.keys, own)
        of_sketch = np.unique(own)
        raw: Any = client.mget(
            [
                "weights",
                *(f"b:{number}" for number in numbers.tolist()),
                *(f"s:{number}" for number in of_sketch.tolist()),
            ]
        )
        fetched = np.frombuffer(b"".join(raw[1 : 1 + len(numbers)]), neighbours)
        here = table._replace(**{name: np.ascontiguousarray(fetched[name]) for name in read})
        room.wanted[looked_at] = places
        fetched = np.frombuffer(b"".join(raw[1 + len(numbers) :]), bucket)
        here_sums[of_sketch], here_updated[of_sketch] = fetched["sums"], fetched["updated"]
        weights = np.frombuffer(raw[0], np.float64).reshape(memory._mixture.weights.shape)
        estimates = np.empty(shape, np.float32)
        estimates[:, 0] = batch.predictions
        said_by = 1 + len(memory.policy.kernels)
        hear_neighbours(
            here, parameters, batch.keys, batch.predictions, memory.written, room, estimates
        )
        read_sketch(
            here_sketch, said_by, parameters.gammas[said_by - 1], parameters.evidence,
            batch.keys, batch.predictions, memory.written, estimates,
        )  # fmt: skip
        mixed = np.empty(shape[::2], np.float32)
        mix(
            memory._mixture._replace(weights=weights), parameters, batch.predictions, estimates,
            np.zeros(CANDIDATES, np.int64), mixed,
        )  # fmt: skip
        times.append(time.perf_counter() - started)
        np.testing.assert_array_equal(mixed, memory.read(batch.keys, batch.predictions).mixed)
    return {
        "p50_ms": float(np.quantile(times, 0.5) * 1e3),
        "p99_ms": float(np.quantile(times, 0.99) * 1e3),
    }


def store(
    client: redis.Redis, name: str, columns: dict[str, NDArray[Any]], packed: np.dtype[Any]
) -> None:
    """A string per row of the columns, packed side by side."""
    rows = np.empty(len(next(iter(columns.values()))), packed)
    for field, each in columns.items():
        rows[field] = each
    for start in range(0, len(rows), 1024):
        part = rows[start : start + 1024]
        client.mset({name.format(start + i): row.tobytes() for i, row in enumerate(part)})


@allocating
def find_sketch_buckets(sketch: SketchTable, keys: FloatArray, own: NDArray[np.int64]) -> None:
    """Into `own` (n, T) which bucket of every hash each of the keys (n, d) is in, counted over all
    hashes."""
    tables, n_buckets = sketch.updated.shape
    margins = np.empty(sketch.planes.shape[1], np.float32)
    bits = margins.shape[0] // tables
    for i in range(keys.shape[0]):
        products(keys[i], sketch.planes, margins)
        for t in range(tables):
            code = code_of(margins[t * bits : (t + 1) * bits])
            own[i, t] = t * n_buckets + bucket_of(code, n_buckets)


def write_times(
    client: redis.Redis, url: str, memory: ErrorMemory, rng: np.random.Generator, *, quick: bool
) -> dict[str, float]:
    """Ingest through the log, replay, and the time until another process sees a write."""
    log = MemoryLog(client, model="bench", version="v1")
    messages = 300 if quick else 3_000
    ready = [entries(rng, MESSAGE, memory) for _ in range(50)]
    numbered = 0
    spent = 0.0
    for step in range(messages):
        ids = np.arange(numbered + 1, numbered + MESSAGE + 1, dtype=np.uint64)
        numbered += MESSAGE
        batch = ErrorBatch(**{**ready[step % 50].__dict__, "feedback_ids": ids})
        started = time.perf_counter()
        log.append(batch)
        spent += time.perf_counter() - started
    header, records = pack(ready[0])
    replica = MemoryReplica(log, memory.policy, d=D, n_classes=memory.n_classes)
    started = time.perf_counter()
    replica.catch_up()
    caught_up = time.perf_counter() - started
    return {
        "visible_p99_ms": visible_p99_ms(client, url, log, ready, 100 if quick else 500),
        "bytes_per_entry": (len(header) + records.nbytes) / MESSAGE,
        "ingest_per_s": numbered / spent,
        "replay_per_s": numbered / caught_up,
    }


def visible_p99_ms(
    client: redis.Redis, url: str, log: MemoryLog, ready: list[ErrorBatch], rounds: int
) -> float:
    """From before the append until the other process has it, on one machine's clock."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--replica", url, str(ready[0].labels.shape[1])],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    try:
        client.blpop(["ready"], timeout=60)
        delays = []
        for step in range(rounds):
            started = time.time_ns()
            position = log.append(ready[step % 50]).position
            while True:
                answer: Any = client.blpop(["seen"], timeout=10)
                seen, at = map(int, answer[1].split())
                if seen >= position:
                    break
            delays.append((at - started) / 1e6)
        return float(np.quantile(delays, 0.99))
    finally:
        child.terminate()
        child.wait()


def watch(url: str, classes: int) -> None:
    """The other replica: says when it has read how far."""
    client = connect(url, timeout_s=30)
    log = MemoryLog(connect(url, timeout_s=30), model="bench", version="v1")
    replica = MemoryReplica(log, reading_policy(2**16), d=D, n_classes=classes)
    replica.catch_up()
    probe = entries(np.random.default_rng(0), 1, replica.memory)
    replica.read(probe.keys, probe.predictions)
    client.rpush("ready", "1")
    while True:
        before = replica.position
        replica.poll(block_ms=100)
        if replica.position > before:
            client.rpush("seen", f"{replica.position} {time.time_ns()}")


if __name__ == "__main__":
    main()
