"""What the chart starts is started here too: the Redis it configures, and its own install test."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
import uvicorn

from feature_store.online.embedded import find_server
from services.recommend.app import create_app
from services.recommend.settings import ServeSettings
from tests.helm.conftest import CHART

PASSWORD = "correct horse battery staple"


def test_its_redis_starts_and_asks_for_the_password(render, tmp_path: Path) -> None:
    resources = render("small")
    (pod,) = (each for each in resources if each["kind"] == "StatefulSet")
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    (config,) = (each for each in resources if "valkey.conf" in each.get("data", {}))
    (tmp_path / "data").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(find_server())
    text = config["data"]["valkey.conf"].replace("dir /data", f"dir {tmp_path}/data")
    # A socket in place of the port, which another process may hold.
    (tmp_path / "valkey.conf").write_text(f"{text}\nport 0\nunixsocket {tmp_path}/redis.sock\n")
    (tmp_path / "run").mkdir()
    command = [
        part.replace("/etc/valkey/", f"{tmp_path}/").replace("/run/valkey/", f"{tmp_path}/run/")
        for part in container["command"]
    ]
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        container["env"][0]["name"]: PASSWORD,
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(unix_socket_path=f"{tmp_path}/redis.sock", password=PASSWORD)
            _until(lambda: _pings(client))
            stranger = redis.Redis(unix_socket_path=f"{tmp_path}/redis.sock")
            with pytest.raises(redis.AuthenticationError):
                stranger.get("anything")
            settings = client.config_get("*")
            assert settings["appendonly"] == "yes"
            assert settings["maxmemory"] == str(128 * 2**20)
            assert settings["maxmemory-policy"] == "noeviction"
            arguments = Path(f"/proc/{server.pid}/cmdline").read_text()
            assert PASSWORD not in arguments
            client.set("a click", "counted")
            client.close()
            stranger.close()
            # Kubernetes tells the container's first process to stop: that is the server itself.
            server.terminate()
            assert server.wait(timeout=20) == 0
            assert not (tmp_path / "redis.sock").exists()
        finally:
            server.kill()


def test_its_install_test_passes_on_a_service_without_a_model(redis_server, tmp_path) -> None:
    settings = ServeSettings(
        registry=str(tmp_path / "registry"), redis_url=redis_server.url, offline=tmp_path
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        _until(lambda: server.started)
        done = _install_test(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert done.returncode == 0, done.stderr
        assert "ready 503" in done.stdout
    finally:
        server.should_exit = True
        thread.join()


def test_its_install_test_fails_where_nothing_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = _install_test(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_its_install_test_is_what_stands_in_the_pod(render) -> None:
    (pod,) = (each for each in render() if each["kind"] == "Pod")
    script, url = pod["spec"]["containers"][0]["args"]
    assert script.strip() == (CHART / "files" / "answers.py").read_text().strip()
    (service,) = (
        each
        for each in render()
        if each["kind"] == "Service" and each["metadata"]["name"].endswith("-serve")
    )
    assert re.fullmatch(r"http://([\w-]+):80", url).group(1) == service["metadata"]["name"]


def _install_test(url: str) -> subprocess.CompletedProcess[str]:
    script = (CHART / "files" / "answers.py").read_text()
    return subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True)


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _until(condition, *, deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
