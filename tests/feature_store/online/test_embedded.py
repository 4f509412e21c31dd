import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from feature_store.online import EmbeddedRedis, EmbeddedRedisError, connect


@pytest.fixture
def short_directory(tmp_path_factory):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        yield Path(directory)


def test_acknowledged_writes_survive_a_restart(short_directory):
    with EmbeddedRedis(short_directory) as server:
        connect(server.url, timeout_s=5).set("kept", "yes")
    with EmbeddedRedis(short_directory) as server:
        assert connect(server.url, timeout_s=5).get("kept") == b"yes"


def test_a_second_process_shares_the_server_and_does_not_stop_it(short_directory):
    with EmbeddedRedis(short_directory) as first:
        with EmbeddedRedis(short_directory) as second:
            assert first.owned
            assert not second.owned
        assert connect(first.url, timeout_s=5).ping()


def test_the_server_dies_with_a_parent_that_is_killed(short_directory):
    code = (
        "import sys, pathlib\n"
        "from feature_store.online import EmbeddedRedis\n"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])).start()\n"
        "print(server._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(short_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    with parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    server.wait(timeout=20)
    assert not server.is_running()


def test_a_path_too_long_for_a_socket_says_what_to_do(tmp_path):
    with pytest.raises(EmbeddedRedisError, match="ERRATA_REDIS_URL"):
        EmbeddedRedis(tmp_path / ("x" * 120))


def test_a_dead_server_costs_milliseconds_not_seconds(short_directory):
    with EmbeddedRedis(short_directory) as server:
        client = connect(server.url)
        client.ping()
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_a_server_that_is_killed_is_started_again_with_its_data(short_directory):
    with EmbeddedRedis(short_directory) as server:
        client = connect(server.url, timeout_s=5)
        client.set("kept", "yes")
        killed = server._process
        killed.kill()
        killed.wait()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert client.get("kept") == b"yes"
                break
            except redis.RedisError:
                assert time.monotonic() < deadline, "it was not started again"
    with pytest.raises(redis.ConnectionError):
        client.ping()
