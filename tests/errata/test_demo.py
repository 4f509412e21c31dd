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


def errata(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "errata", *arguments],
        env=os.environ | {"ERRATA_HOME": str(home)} | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_demo_trains_serves_clicks_and_stays_up_and_runs_again(home, ratings):
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
    finally:
        stopped = errata(home, "demo", "--stop")
    assert "stopped" in stopped.stdout
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
