"""`errata serve --admin-port`, with one worker and with two: what operates the service is answered
there and nowhere else. And what one of two workers saw is known to the other."""
# ruff: noqa: F401, F811 (fixtures of another room)

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from errata.cli.main import run
from feature_store.registry import Registry
from services.classify.stream import ServedEdition
from tests.services.classify.conftest import mixed, publish, served
from tests.services.conftest import traffic, trained

ADMINISTRATIVE = [
    ("GET", "/metrics"),
    ("POST", "/v1/models/recommender/promote"),
    ("POST", "/v1/models/recommender/rollback"),
    ("POST", "/v1/memory/recommender/forget"),
    ("POST", "/v1/memory/recommender/switch"),
    ("PUT", "/v1/items/new"),
    ("DELETE", "/v1/items/new"),
]
Ports = tuple[httpx.Client, httpx.Client]


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def ports(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    served: ServedEdition,
) -> Iterator[Ports]:
    """Clients of the main and of the admin port of a service that classifies traffic."""
    tmp_path = tmp_path_factory.mktemp("home")
    publish(Registry(tmp_path / "registry"), served.edition, tmp_path / "staging")
    main, admin = free_ports(2)
    command = [sys.executable, "-m", "errata", "serve", f"--port={main}", f"--admin-port={admin}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ERRATA_")}
    with ExitStack() as stack:
        home = {"ERRATA_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, f"--workers={request.param}"], env=environment | home, stderr=subprocess.PIPE
        )
        stack.callback(process.communicate)
        stack.callback(process.terminate)
        clients = [
            stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
            for port in (main, admin)
        ]
        deadline = time.monotonic() + 120
        while not all(map(answers, clients)):
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield clients[0], clients[1]


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        time.sleep(0.05)  # between two looks
        return False


def test_administration_is_answered_on_its_port_alone(ports: Ports) -> None:
    main, admin = ports
    forged = {"host": f"127.0.0.1:{admin.base_url.port}", "x-forwarded-port": "9000"}
    for method, path in ADMINISTRATIVE:
        for headers in ({}, forged):
            refused = main.request(method, path, headers=headers)
            assert refused.status_code == 404, path
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["title"] == "Not on this port"
        answered = admin.request(method, path, json={} if method in ("POST", "PUT") else None)
        assert "Not on this port" not in answered.text
    assert "errata_requests_total" in admin.get("/metrics").text
    for client in ports:
        assert client.get("/").is_success
        asked = client.post("/v1/recommendations", json={"user_id": "u"})
        assert asked.json()["title"] != "Not on this port"


def test_whichever_worker_is_asked_knows_a_flow_and_what_was_looked_up(
    ports: Ports, mixed: Path
) -> None:
    main, admin = ports
    answer = main.post("/v1/classify", content=mixed.read_bytes()).raise_for_status().json()
    verdict = answer["verdicts"][0]
    asked = f"/v1/verdicts/{verdict['prediction_id']}/neighbours"
    for _ in range(12):  # a connection goes to one of the workers, by its port
        with httpx.Client(base_url=main.base_url, timeout=30) as stranger:
            flows = stranger.get(asked).raise_for_status().json()["flows"]
            assert flows[0]["verdict"] == verdict
            assert len(flows) == 13
    looked_up = []
    deadline = time.monotonic() + 20
    # Each worker adds its own at its next look; then all of them say the same.
    while len(looked_up) < 12 or len(set(looked_up[-12:])) > 1:
        assert time.monotonic() < deadline, looked_up
        with httpx.Client(base_url=main.base_url, timeout=30) as stranger:
            (found,) = stranger.get("/v1/memory").json()["memories"]
            looked_up.append(found["reads"])
    assert looked_up[-1] >= 36
    metrics = admin.get("/metrics").text
    for name in ("errata_verdict_listeners", "errata_traffic_drift_rises", "errata_flows_total"):
        assert name in metrics


def test_the_two_ports_must_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--port=8000", "--admin-port=8000"]) == 2
    assert "--admin-port must be another than --port" in capsys.readouterr().err
