"""What a user waits for, and what may be missing, when a command starts."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from errata.cli.data import _FORMATS
from errata.cli.index import KINDS
from errata.cli.train import TierName
from feature_store.interactions.importers import IMPORTERS
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from feature_store.traffic.features import Tier
from feature_store.vectors.spec import Kind
from tests.services.recommend.conftest import publish

QUICK_COMMANDS = [
    ["--help"],
    ["serve", "--help"],
    ["registry", "list"],
    ["keys", "list", "--file", "no-such-file"],
    ["memory", "stats"],
    ["flows", "no-such-file"],
    ["forget-user", "u1"],
]


def test_no_command_that_computes_nothing_waits_for_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from errata.cli.main import run
for command in {QUICK_COMMANDS!r}:
    run(command)
    loaded = {{"torch", "lightgbm", "sklearn", "matplotlib"}} & set(sys.modules)
    assert not loaded, (command, loaded)
"""
    environment = {k: v for k, v in os.environ.items() if k != "ERRATA_REDIS_URL"}
    with tempfile.TemporaryDirectory(prefix="errata-") as home:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"ERRATA_HOME": home},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr


def test_what_the_options_name_is_what_there_is() -> None:
    assert _FORMATS.split(", ") == [importer.name for importer in IMPORTERS]
    assert Kind.__args__ == KINDS
    assert [each.value for each in TierName] == [each.value for each in Tier]


@pytest.fixture
def home() -> Iterator[Path]:
    # A short path: a unix socket's holds at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        publish(Registry(Path(directory) / "registry"), Path(directory) / "staging")
        yield Path(directory)


def wait_for(client: httpx.Client, status: str, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    found = "no answer"
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            found = client.get("/readyz").json()["status"]
        if found == status:
            return
        time.sleep(0.05)
    raise AssertionError(f"{found}, not {status}")


def test_serving_begins_without_redis_and_takes_it_up_when_it_comes(home: Path) -> None:
    store = EmbeddedRedis(home / "redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": store.url, "ERRATA_LOG_LEVEL": "info"}
    command = ["-m", "errata", "serve", "--port", str(port), "--workers", "2"]
    log = home / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | settings | {"ERRATA_LOG_FORMAT": "json"},
            stderr=file,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_for(client, "degraded")
            asked = {"user_id": "u", "k": 3}
            answer = client.post("/v1/recommendations", json=asked)
            assert answer.is_success
            assert answer.json()["degraded"]
            seen = {"user_id": "u", "item_id": answer.json()["items"][0]["item_id"]}
            told = client.post("/v1/feedback", json=seen | {"type": "click"})
            assert told.json()["status"] == "stored"
            with store:
                wait_for(client, "ok")
                user_is_known = False
                deadline = time.monotonic() + 30
                while not user_is_known and time.monotonic() < deadline:
                    answer = client.post("/v1/recommendations", json=asked).json()
                    items = [each["item_id"] for each in answer["items"]]
                    user_is_known = not answer["degraded"] and seen["item_id"] not in items
                assert user_is_known
    finally:
        process.terminate()
        process.wait(timeout=30)
    said = log.read_text()
    assert "no Redis answers" in said
    assert f"serving http://127.0.0.1:{port}" in said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["logger"] == "errata.requests"]
    assert any(line["message"].startswith("POST /v1/feedback") for line in requests)
    assert all(line["request_id"] for line in requests)


def test_serving_ends_at_once_where_redis_refuses(home: Path) -> None:
    with EmbeddedRedis(home / "redis") as store:
        done = subprocess.run(
            [sys.executable, "-m", "errata", "serve", "--port", "1"],
            env=os.environ
            | {"ERRATA_HOME": str(home), "ERRATA_REDIS_URL": f"unix://u:wrong@{store.socket}"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "ERRATA_REDIS_URL" in done.stderr


def test_a_suggested_command_is_typed_as_this_one_was(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "errata"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nfrom errata.console import invoked_as\nprint(invoked_as())\n"
    )
    script.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    on_path = environment | {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    for typed, env in [
        ("bin/errata", environment),
        (str(script), environment),
        ("errata", on_path),
    ]:
        done = subprocess.run(
            typed, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == typed


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["--interface", "nosuch0"], "cannot capture nosuch0: No such device"),
        (["--capture", "text.pcap"], "text.pcap is not a capture"),
        (["--capture", "text.pcap", "--interface", "lo"], "name one"),
        (["--replay", "2"], "nothing to read: name a capture"),
        (["--capture", "."], "is a directory"),
    ],
)
def test_serving_ends_at_once_where_its_source_cannot_be_had(
    tmp_path: Path, named: list[str], said: str
) -> None:
    (tmp_path / "text.pcap").write_text("hello")
    done = subprocess.run(
        [sys.executable, "-m", "errata", "serve", *named],
        env=os.environ
        | {"ERRATA_HOME": str(tmp_path), "COLUMNS": "200"}
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    if "nosuch0" not in named or "CAP_NET_RAW" not in done.stderr:
        assert said in done.stderr
    assert "serving" not in done.stderr
    assert not (tmp_path / "redis").exists()
