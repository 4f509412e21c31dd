"""The error memory when processes die: a real service, a real Redis, SIGKILL to both."""

import signal
import tempfile
from pathlib import Path

import httpx
import pytest

from benchmarks.faults import RedisServer
from benchmarks.serving.processes import server
from feature_store.error_memory.log import MemoryLog
from feature_store.registry import Registry
from services.recommend.memory_policy import DEFAULT_POLICY
from tests.patience import within
from tests.services.recommend.conftest import publish

eventually = within(60)

EAGER = {"probation": 0.0, "evidence": 0.3, "base_prior": 0.1, "gate_half_life": None}
HISTORY = ["film-sea-01", "book-sea-02"]


@pytest.fixture(scope="module")
def home():
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def store(home):
    found = RedisServer(home)
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def log(home, store):
    version = publish(Registry(home / "registry"), home / "staging")
    found = MemoryLog(store.client(), model="recommender", version=version)
    found.decide("policy", **DEFAULT_POLICY.model_copy(update=EAGER).model_dump(mode="json"))
    return found


def service(home, store):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = ["errata", "serve", "--port", str(port), "--set", "limits.deadline_ms=20000"]
    env = {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": store.url}
    return port, server("errata", command, port=port, probe="/readyz", env=env)


def asked(client, **body):
    answer = client.post("/v1/recommendations", json={"history": HISTORY, "k": 5} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sent(client, number, answer):
    body = {
        "user_id": f"u{number}",
        "item_id": answer["items"][number % 3]["item_id"],
        "type": "click" if number % 3 else "dismiss",
        "prediction_id": answer["prediction_id"],
        "feedback_id": f"f{number}",
    }
    said = client.post("/v1/feedback", json=body)
    assert said.status_code == 200, said.text
    return said.json()["status"]


def test_acknowledged_feedback_survives_redis_and_the_memory_survives_the_replica(home, store, log):
    port, running = service(home, store)
    with running as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.timeout = 30
        answers = [asked(client) for _ in range(24)]
        eventually(lambda: len(store.client().keys("errata:default:served:*")) == 24)
        for number in range(8):
            assert sent(client, number, answers[number]) == "applied"
        store.kill()
        # Redis is gone in the middle of the stream: feedback is acknowledged, answers go on.
        statuses = {sent(client, number, answers[number]) for number in range(8, 16)}
        assert statuses == {"stored"}
        assert asked(client)["degraded"]
        store.start()
        eventually(lambda: log.position() == 16)
        eventually(lambda: not asked(client)["degraded"])
        for number in range(24):  # again, and the last eight for the first time
            sent(client, number, answers[number])
        assert log.position() == 24
        assert {sent(client, number, answers[number]) for number in range(24)} == {"duplicate"}
        assert log.position() == 24

        def remembered():
            (found,) = client.get("/v1/memory").json()["memories"]
            return found["written"] == 24

        eventually(remembered)
        before = asked(client, explain=True)["items"]
        assert any(item["corrections"] for item in before)
        process.process.send_signal(signal.SIGKILL)
        process.process.wait()
    port, running = service(home, store)
    with running, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        after = asked(client, explain=True)["items"]
        assert [(item["item_id"], item["score"]) for item in after] == [
            (item["item_id"], item["score"]) for item in before
        ]
        assert [item["corrections"] for item in after] == [item["corrections"] for item in before]
