import io
import json
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import redis
from rich.console import Console

from feature_store.online import EmbeddedRedis, connect
from services.classify.replicas import Relay
from services.classify.sinks import Hub, JsonLines, LiveTable, RedisStream, Sink
from services.classify.stream import ServedEdition, StreamClassifier
from services.classify.verdict import Verdict
from tests.event_loop import run_alone
from tests.services.classify.conftest import packets_of, verdicts_of


@pytest.fixture(scope="session")
def verdicts(served: ServedEdition, mixed: Path) -> list[Verdict]:
    return verdicts_of([packets_of(mixed)], StreamClassifier(served))


def test_json_lines_say_what_a_pipe_needs(verdicts: list[Verdict]) -> None:
    stream = io.BytesIO()
    JsonLines(stream).write(verdicts)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == len(verdicts)
    assert lines[0].keys() >= {
        *("prediction_id", "model_version", "source", "destination_port", "protocol", "time"),
        *("packet", "label", "confidence", "final", "reason"),
    }
    final = io.BytesIO()
    JsonLines(final, final_only=True).write(verdicts)
    assert len(final.getvalue().splitlines()) == sum(v.final for v in verdicts) < len(lines)


def test_verdicts_reach_a_redis_stream(redis_client: redis.Redis, verdicts: list[Verdict]) -> None:
    sink = RedisStream(redis_client, "verdicts", length=50)
    for begin in range(0, len(verdicts), 10):
        sink.write(verdicts[begin : begin + 10])
    entries = redis_client.xrevrange("verdicts")
    assert orjson.loads(entries[0][1][b"verdict"]) == verdicts[-1].to_json()
    assert 50 <= len(entries) < len(verdicts)  # capped, approximately
    assert sink.dropped == 0


def test_a_redis_that_is_gone_costs_verdicts_and_not_the_stream(
    tmp_path: Path, verdicts: list[Verdict]
) -> None:
    now = 100.0
    server = EmbeddedRedis(tmp_path / "r").start()
    client = connect(server.url)
    sink = RedisStream(client, "verdicts", monotonic=lambda: now)
    sink.write(verdicts[:3])
    server.stop()
    sink.write(verdicts[3:5])
    sink.write(verdicts[5:9])
    assert sink.dropped == 6
    with server.start():
        sink.write(verdicts[9:10])
        assert sink.dropped == 7  # asked again after a second
        now += 2
        sink.write(verdicts[10:14])
        assert sink.dropped == 7
        assert client.xlen("verdicts") == 7
        client.close()


@pytest.mark.parametrize("kind", ["stream", "relay"])
def test_a_redis_that_hangs_is_not_waited_for_again_and_again(
    kind: str, verdicts: list[Verdict]
) -> None:
    elsewhere = 0.0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        client = connect(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)

        def monotonic() -> float:
            return time.monotonic() + elsewhere

        def asked() -> bool:
            sink.write(verdicts[:1])
            connections = 0
            with suppress(BlockingIOError):
                while True:
                    silent.accept()[0].close()
                    connections += 1
            return connections > 0

        sink: Sink = (
            RedisStream(client, "verdicts", monotonic=monotonic)
            if kind == "stream"
            else Relay(client, tenant="test", monotonic=monotonic)
        )
        assert asked()
        elsewhere += 1.5  # what else is done with verdicts takes its time
        assert not asked()
        elsewhere += 60
        assert asked()
        sink.close()


def test_listeners_hear_what_another_thread_says(verdicts: list[Verdict]) -> None:
    async def listen() -> tuple[list[Verdict], list[Verdict]]:
        hub = Hub()
        every, final = [], []
        with hub.subscribe() as a, hub.subscribe(final_only=True) as b:
            assert len(hub) == 2

            def talk() -> None:
                for verdict in verdicts:
                    hub.write([verdict])
                hub.close()

            thread = threading.Thread(target=talk)
            thread.start()
            for subscription, heard in ((a, every), (b, final)):
                while (news := await subscription.next(10)) is not None:
                    heard += news
            thread.join()
        assert len(hub) == 0
        return every, final

    every, final = run_alone(listen())
    assert every == verdicts
    assert final == [v for v in verdicts if v.final]


def test_a_slow_listener_loses_the_oldest_and_is_told(verdicts: list[Verdict]) -> None:
    async def listen() -> None:
        hub = Hub(length=4)
        with hub.subscribe() as subscription:
            assert await subscription.next(0.001) == []
            hub.write(verdicts[:10])
            assert await subscription.next(10) == verdicts[6:10]
            assert subscription.dropped == 6
        hub.write(verdicts)  # to nobody

    run_alone(listen())


def test_who_joins_after_the_end_hears_that_it_ended() -> None:
    async def listen() -> None:
        hub = Hub()
        hub.close()
        with hub.subscribe() as subscription:
            assert await subscription.next(10) is None

    run_alone(listen())


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_shows_classes_latency_and_what_was_shed(
    served: ServedEdition, mixed: Path, terminal: bool
) -> None:
    classifier = StreamClassifier(served)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=140)
    with LiveTable(
        classifier.counts, console, title="traffic of a test", pending=lambda: "some run"
    ) as table:
        for verdicts in classifier.add(packets_of(mixed)):
            table.write(verdicts)
        for verdicts in classifier.finish():
            table.write(verdicts)
        table.close()
    text = shown.getvalue()
    for word in (
        *served.edition.classes,
        "traffic of a test",
        "p99",
        "shed: nothing",
        "unknown",
        "some run",
    ):
        assert word in text
