"""A sensor and two workers as processes of their own, one of which is killed."""
# ruff: noqa: F401, F811 (fixtures of other rooms)

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis

from errata.cli.main import run
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from tests.feature_store.queues.conftest import KafkaBroker, kafka, kafka_broker
from tests.services.classify.conftest import publish, served, write_mixed
from tests.services.conftest import traffic, trained

PATIENCE_S = 240.0
FLOWS = 600


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "many.pcap"
    return write_mixed(path, flows=FLOWS // 3, seed=3, spread_s=30)


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: EmbeddedRedis, redis_client
) -> Path:
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    return tmp_path


@pytest.fixture
def start(home: Path, served) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    publish(Registry(home / "registry"), served.edition, home / "staging")
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (home / f"out-{len(started)}").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "errata", *arguments, "--json"],
                stdout=output, stderr=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def ended(process: subprocess.Popen[bytes]) -> None:
    _, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complaints.decode()


def last_line(path: Path) -> dict:
    return json.loads(path.read_bytes().splitlines()[-1])


def verdicts(client: redis.Redis) -> Counter[str]:
    """How many each flow has."""
    return Counter(
        orjson.loads(fields[b"verdict"])["prediction_id"] for _, fields in client.xrange("verdicts")
    )


def taken(client: redis.Redis) -> Counter[bytes]:
    """Messages that each worker has in hand."""
    return Counter(
        {
            each["name"]: each["pending"]
            for stream in client.keys("errata:default:queue:flows:*")
            for each in client.xinfo_consumers(stream, "readers")
        }
    )


def test_a_worker_that_is_killed_loses_no_flow_and_doubles_none(
    start, home: Path, capture: Path, redis_client: redis.Redis
) -> None:
    common = ("classify", "--from-stream", "flows", "--claim-after", "1")
    workers = [start(*common), start(*common)]
    until(lambda: len(taken(redis_client)) == 2, "both workers read")
    sensor = start("flows", str(capture), "--publish", "flows", "--batch", "1")
    until(lambda: redis_client.xlen("verdicts") > 20, "verdicts come")
    victim, heir = workers

    def has_work_in_hand() -> bool:
        """Stopped first, so that it dies with messages that it took."""
        victim.send_signal(signal.SIGSTOP)
        mine = f"-{victim.pid}-".encode()
        found = any(n for name, n in taken(redis_client).items() if mine in name)
        if not found:
            victim.send_signal(signal.SIGCONT)
        return found

    until(has_work_in_hand, "the worker has messages in hand")
    assert redis_client.xlen("verdicts") < FLOWS
    victim.kill()
    ended(sensor)
    assert last_line(home / "out-2")["published"]["flows"] == FLOWS
    streams = redis_client.keys("errata:default:queue:flows:*")
    until(lambda: sum(map(redis_client.xlen, streams)) == 0, "the queue is empty")
    heir.send_signal(signal.SIGTERM)
    ended(heir)
    found = verdicts(redis_client)
    assert len(found) == FLOWS
    assert set(found.values()) == {1}
    counts = last_line(home / "out-1")
    assert counts["delivered_again"] > 0
    assert counts["lag"] is not None


def test_kafka_loses_no_flow_and_doubles_none(
    start, home: Path, capture: Path, redis_client: redis.Redis, kafka_broker: KafkaBroker
) -> None:
    stream = f"kafka://{kafka_broker.address}/flows"
    sensor = start("flows", str(capture), "--publish", stream, "--batch", "2")
    ended(sensor)
    common = ("classify", "--from-stream", stream, "--claim-after", "6")
    victim, heir = start(*common), start(*common)
    until(lambda: redis_client.xlen("verdicts") > 20, "verdicts come")
    victim.kill()
    until(lambda: len(verdicts(redis_client)) == FLOWS, "every flow has its verdict")
    heir.send_signal(signal.SIGTERM)
    ended(heir)
    assert set(verdicts(redis_client).values()) == {1}


def test_a_stream_is_drained_and_shown(home: Path, served, mixed_small: Path, capfd) -> None:
    publish(Registry(home / "registry"), served.edition, home / "staging")
    assert run(["flows", str(mixed_small), "--publish", "flows"]) == 0
    assert "9 flows in" in capfd.readouterr().out
    assert run(["classify", "--from-stream", "flows", "--drain"]) == 0
    shown = capfd.readouterr()
    assert "0 messages left" in shown.out
    assert "9 flows, 0 known already" in shown.err
    assert run(["flows", str(mixed_small), "--publish", "flows"]) == 0
    assert run(["classify", "--from-stream", "flows", "--drain", "--json"]) == 0
    counts = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (counts["flows"], counts["duplicates"]) == (0, 9)


@pytest.fixture
def mixed_small(tmp_path: Path) -> Path:
    return write_mixed(tmp_path / "small.pcap", flows=3, seed=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flows"], "name a capture"),
        (["flows", "--interface", "lo"], "--publish"),
        (["flows", __file__, "--publish", "flows"], "is not a capture"),
        (["flows", "CAPTURE", "--publish", "kafka://host:9092"], "kafka://HOST:PORT/TOPIC"),
        (["classify", "x.pcap", "--from-stream", "flows"], "name no capture"),
        (["classify", "x.pcap", "--drain"], "go with --from-stream"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    home: Path, mixed_small: Path, capsys, arguments: list[str], said: str
) -> None:
    chosen = [str(mixed_small) if each == "CAPTURE" else each for each in arguments]
    assert run(chosen) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.strip().splitlines()) == 1
