"""Queues of flows between sensors (`errata flows --publish`) and workers (`errata classify`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli.graceful import stopped_by_signals
from errata.cli.serve import redis_url
from errata.console import err, out
from errata.kafka_topics import PARTITIONS, SCHEME, TopicAddress
from errata.settings import Settings

if TYPE_CHECKING:
    from feature_store.queues import QueueReader, QueueWriter

TENANT = "default"
REDIS_TIMEOUT_S = 5.0

FromStream = Annotated[
    str | None,
    typer.Option(
        metavar="STREAM",
        help="Classify flows that sensors publish: a name in Redis, or kafka://HOST:PORT/TOPIC.",
    ),
]
Drain = Annotated[
    bool, typer.Option("--drain", help="With --from-stream: end when no flow is left.")
]
ClaimAfter = Annotated[
    float,
    typer.Option(
        "--claim-after",
        help="With --from-stream: seconds after which a silent worker's flows go to another.",
        min=0.1,
    ),
]
MetricsAddress = Annotated[
    str | None,
    typer.Option(
        "--metrics", metavar="HOST:PORT", help="With --from-stream: serve lag and counts there."
    ),
]


@contextmanager
def open_writer(settings: Settings, stream: str, *, partitions: int) -> Iterator[QueueWriter]:
    """The queue that `stream` names, to write into."""
    if stream.startswith(SCHEME):
        queue = TopicAddress.parse(stream).open(partitions=partitions)
        from feature_store.queues.kafka import KafkaWriter

        yield KafkaWriter(queue)
        return
    from feature_store.online import connect
    from feature_store.queues.redis_streams import RedisStreamsQueue, RedisStreamsWriter

    with redis_url(settings) as url:
        client = connect(url, timeout_s=REDIS_TIMEOUT_S)
        yield RedisStreamsWriter(RedisStreamsQueue(client, stream, partitions=partitions))


def classify_queue(
    settings: Settings,
    stream: str,
    *,
    model: str,
    output: str,
    json: bool,
    drain: bool,
    claim_after_s: float,
    metrics: str | None,
) -> None:
    """Work on a queue's flows until a signal, or with `drain` until none is left."""
    import orjson
    import torch

    from feature_store.online import connect
    from feature_store.registry import Registry
    from services.classify import sinks
    from services.classify.ledger import VerdictLedger
    from services.classify.loading import load_served
    from services.classify.memory import TrafficMemory
    from services.classify.replicas import RecentStream, Relay
    from services.classify.worker import FlowWorker

    torch.set_num_threads(1)  # more workers use more cores, and better
    with ExitStack() as stack:
        stop = stack.enter_context(stopped_by_signals())
        registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
        served = load_served(registry, model)
        url = stack.enter_context(redis_url(settings))
        client = connect(url, timeout_s=REDIS_TIMEOUT_S)
        queue = _open_reader(url, stream, claim_after_s=claim_after_s)
        stack.callback(queue.close)
        memory = TrafficMemory(client, served, recent=RecentStream(client, tenant=TENANT))
        stack.callback(memory.close)
        relay = Relay(client, tenant=TENANT)
        worker = FlowWorker(
            served,
            queue,
            VerdictLedger(client, output),
            corrector=memory,
            drain=drain,
            stop=stop,
        )
        if metrics is not None:
            _serve_metrics(metrics, worker.counts)
        chosen: list[sinks.Sink] = [memory, relay]
        if json:
            chosen.append(sinks.JsonLines(sys.stdout.buffer))
        else:
            table = sinks.LiveTable(
                worker.counts.stream, out, title=f"flows of {stream}", pending=lambda: _lag(worker)
            )
            chosen.append(stack.enter_context(table))
        for verdicts in worker.run():
            for sink in chosen:
                sink.write(verdicts)
        for sink in chosen:
            if sink is not memory:  # the worker may still be corrected
                sink.close()
        counts = worker.counts.to_json()
    if json:
        sys.stdout.buffer.write(orjson.dumps(counts, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    else:
        err.print(
            f"{counts['flows']:,} flows, {counts['duplicates']:,} known already, "
            f"{counts['messages']['rejected']:,} messages left out; verdicts are in the Redis "
            f"Stream {output}",
            highlight=False,
            soft_wrap=True,
        )


def _lag(worker: Any) -> str:
    lag = worker.counts.lag
    return "lag unknown" if lag is None else f"{lag.total:,} messages left"


def _open_reader(redis: str, stream: str, *, claim_after_s: float) -> QueueReader:
    if stream.startswith(SCHEME):
        queue = TopicAddress.parse(stream).open()
        from feature_store.queues.kafka import KafkaReader

        return KafkaReader(queue, session_s=claim_after_s)
    from feature_store.online import connect
    from feature_store.queues.redis_streams import RedisStreamsQueue, RedisStreamsReader

    streams = RedisStreamsQueue(
        connect(redis, timeout_s=REDIS_TIMEOUT_S), stream, partitions=PARTITIONS
    )
    return RedisStreamsReader(streams, claim_after_s=claim_after_s)


def _serve_metrics(address: str, counts: Any) -> None:
    from services.classify.worker_metrics import serve_metrics

    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError(f"--metrics takes HOST:PORT, not '{address}'")
    serve_metrics(counts, host=host, port=int(port))
    err.print(f"metrics at http://{address}/metrics", highlight=False, soft_wrap=True)
