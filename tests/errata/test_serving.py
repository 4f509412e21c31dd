"""One server for recommendations and traffic."""
# ruff: noqa: F401, F811 (fixtures of another room)

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from feature_store.registry import Registry
from tests.services.classify.conftest import mixed, publish, served
from tests.services.conftest import traffic, trained


@pytest.fixture
def server(tmp_path: Path, served, mixed: Path):
    publish(Registry(tmp_path / "registry"), served.edition, tmp_path / "staging")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "ERRATA_REDIS_URL"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "errata", "serve", "--port", str(port)),
            *("--capture", str(mixed), "--replay", "0.2"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"ERRATA_HOME": str(tmp_path)},
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/healthz", timeout=2).is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.05)
    try:
        yield url, process
    finally:
        process.kill()
        process.communicate()


def test_every_route_is_on_one_server_and_it_stops_while_somebody_listens(
    server, mixed: Path
) -> None:
    url, process = server
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/readyz").json()["status"] == "ok"  # nobody promoted a recommender
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/v1/recommendations", "/v1/classify", "/v1/verdicts"} <= paths.keys()
        large = mixed.read_bytes()
        # Beyond what other routes take: the pcap reader stops at what is no packet.
        answer = client.post("/v1/classify", content=large + b"\xff" * 3_000_000)
        assert answer.json()["flows"] >= 36
        verdict = answer.json()["verdicts"][0]
        label = {"prediction_id": verdict["prediction_id"], "label": "something new"}
        assert client.post("/v1/feedback", json=label).json()["outcomes"] == ["learned"]
        click = {"user_id": "u", "item_id": "i", "type": "click"}
        assert "outcomes" not in client.post("/v1/feedback", json=click).json()
        with client.stream("GET", "/v1/verdicts") as stream:
            lines = stream.iter_lines()
            first = next(line for line in lines if line.startswith("data: "))
            assert json.loads(first.removeprefix("data: "))["packet"] >= 1
            metrics = client.get("/metrics").text
            assert "errata_verdicts_total" in metrics
            assert "errata_verdict_listeners 1.0" in metrics
            process.send_signal(signal.SIGTERM)
            for _ in lines:  # the stream ends by itself
                pass
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
