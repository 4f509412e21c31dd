"""`errata serve --admin-port`: what operates the service is answered there and nowhere else."""

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


@pytest.fixture(params=[1, 2], ids=["one-worker", "two-workers"])
def ports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ports]:
    """Clients of the main and of the admin port of a service without a model."""
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


def test_the_two_ports_must_differ(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "errata", "serve", "--port=8000", "--admin-port=8000"],
        env=os.environ | {"ERRATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--admin-port must be another than --port" in done.stderr
