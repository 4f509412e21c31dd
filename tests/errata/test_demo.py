"""The demo itself, on a slice of real interactions, with every real part."""

import gzip
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from feature_store.online import Event, OnlineStore

QUICK = [
    *("--set", "towers.epochs=2", "--set", "towers.dimension=16", "--set", "threads=1"),
    *("--set", "linear.rank=8", "--set", "evaluation.baselines=[popularity, ease]"),
]


@pytest.fixture
def home():
    # A short path: the embedded Redis listens on a unix socket below it.
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        yield Path(directory)


@pytest.fixture
def ratings(data_sets: Path, tmp_path: Path) -> Path:
    """The ratings of 60 users of MovieLens-latest-small."""
    source = data_sets / "streams" / "ml-latest-small" / "ratings.csv.gz"
    with gzip.open(source, "rt") as file:
        header, *rows = file.read().splitlines()
    kept = [row for row in rows if int(row.split(",", 1)[0]) <= 60]
    (tmp_path / "ratings.csv").write_text("\n".join([header, *kept]) + "\n")
    return tmp_path / "ratings.csv"


def errata(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "ERRATA_REDIS_URL"}
    return subprocess.run(
        [sys.executable, "-m", "errata", *arguments],
        env=inherited | {"ERRATA_HOME": str(home), "COLUMNS": "200"} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_demo_trains_serves_clicks_and_stays_up_and_runs_again(
    home, ratings, redis_server, redis_client
):
    port = free_port()
    arguments = ["demo", "--data", str(ratings), "--port", str(port), *QUICK]
    url = f"http://127.0.0.1:{port}"
    try:
        first = errata(home, *arguments)
        assert first.returncode == 0, first.stderr
        assert "after a click on" in first.stdout
        assert url in first.stdout
        assert httpx.get(f"{url}/readyz").json()["status"] == "ok"
        answer = httpx.post(f"{url}/v1/recommendations", json={"user_id": "1", "k": 5}).json()
        assert answer["personalised"]  # the history of the tables is online
        assert len(answer["items"]) == 5

        again = errata(home, *arguments)
        assert again.returncode == 0, again.stderr
        assert "using it" in again.stderr  # nothing was trained twice
        assert len(list((home / "demo" / "registry" / "recommender" / "versions").iterdir())) == 1

        # In a Redis that is named it has a tenant of its own, and leaves the others' alone.
        OnlineStore(redis_client).append("1", Event("1", 1), feedback_id="mine")
        before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
        named = errata(home, *arguments, ERRATA_REDIS_URL=redis_server.url)
        assert named.returncode == 0, named.stderr
        assert "using it" in named.stderr
        assert f"Redis {redis_server.url}, tenant 'demo'" in named.stderr
        assert "after a click on" in named.stdout
        answer = httpx.post(f"{url}/v1/recommendations", json={"user_id": "1", "k": 5}).json()
        assert answer["personalised"]
        assert not answer["degraded"]
        assert {key: redis_client.dump(key) for key in before} == before
        added = set(redis_client.scan_iter()) - set(before)
        assert added
        assert all(key.startswith(b"errata:demo:") for key in added), added
    finally:
        stopped = errata(home, "demo", "--stop")
    assert "stopped" in stopped.stdout
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def test_a_named_redis_that_is_away_is_said_before_the_training(home, ratings):
    done = errata(home, "demo", "--data", str(ratings), ERRATA_REDIS_URL="redis://127.0.0.1:1")
    assert done.returncode == 1
    assert "no Redis answers at ERRATA_REDIS_URL=redis://127.0.0.1:1" in done.stderr
    assert not (home / "demo" / "registry").exists()
