import logging
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
from feature_store.online.embedded import MEMORY_SHARE, memory_bytes
from tests.patience import within

# 10,000 keys at 0.4 ms load for four seconds. It answers every 1,024 keys.
KEYS, SLOW = 10_000, {"key-load-delay": "400"}

eventually = within(30)


def fill(server, keys=KEYS):
    pipeline = connect(server.url, timeout_s=20).pipeline()
    for number in range(keys):
        pipeline.set(str(number), "kept")
    pipeline.execute()


def is_loading(server):
    try:
        connect(server.url, timeout_s=5).ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.RedisError:
        pass
    return False


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
    # Whoever comes meanwhile does not share a server that is about to leave.
    with EmbeddedRedis(short_directory) as next_one:
        assert next_one.owned
        server.wait(timeout=20)
        assert not server.is_running()
        assert connect(next_one.url, timeout_s=5).ping()


def test_ctrl_c_leaves_the_server_to_whoever_started_it(short_directory):
    code = (
        "import sys, pathlib\n"
        "from feature_store.online import EmbeddedRedis\n"
        "with EmbeddedRedis(pathlib.Path(sys.argv[1])):\n"
        "    try:\n"
        "        print('up', flush=True)\n"
        "        sys.stdin.read()\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(short_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        os.killpg(owner.pid, signal.SIGINT)  # as a terminal does
    assert owner.returncode == 0
    told = (short_directory / "redis.log").read_text()
    assert "Received SIGTERM" in told
    assert "Received SIGINT" not in told


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


def test_a_server_is_waited_for_while_it_loads_and_that_is_said_once(short_directory, caplog):
    with EmbeddedRedis(short_directory) as server:
        fill(server)
    began, timeout_s = time.monotonic(), 2.0
    with (
        caplog.at_level(logging.WARNING),
        EmbeddedRedis(short_directory, options=SLOW, start_timeout_s=timeout_s) as server,
    ):
        assert time.monotonic() - began > 1.5 * timeout_s
        assert connect(server.url, timeout_s=5).dbsize() == KEYS
    assert [each.message for each in caplog.records if "still loads" in each.message] == [
        f"the embedded Redis still loads {short_directory}: waiting"
    ]


def test_a_server_that_is_loading_is_shared(short_directory):
    with EmbeddedRedis(short_directory, options=SLOW) as first:
        fill(first)
        first._process.kill()
        eventually(lambda: is_loading(first))
        with EmbeddedRedis(short_directory) as second:
            assert not second.owned
            assert connect(second.url, timeout_s=5).dbsize() == KEYS


def test_a_server_that_is_loading_can_be_stopped(short_directory):
    server = EmbeddedRedis(short_directory, options=SLOW).start()
    fill(server, keys=5 * KEYS)
    server._process.kill()
    eventually(lambda: is_loading(server))
    loading = psutil.Process(server._process.pid)
    began = time.monotonic()
    server.stop()
    assert not loading.is_running()
    assert time.monotonic() - began < 10  # it had twenty seconds to go


def test_an_interrupt_ends_the_wait_and_the_server(short_directory):
    with EmbeddedRedis(short_directory) as server:
        fill(server, keys=5 * KEYS)
    code = (
        "import sys, pathlib\n"
        "from feature_store.online import EmbeddedRedis\n"
        f"EmbeddedRedis(pathlib.Path(sys.argv[1]), options={SLOW}).start()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(short_directory)],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    ) as waiting:
        eventually(lambda: is_loading(server))
        (loading,) = psutil.Process(waiting.pid).children()
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors
    assert not loading.is_running()


def test_a_server_that_is_not_heard_of_is_given_up(short_directory):
    elsewhere = {"unixsocket": str(short_directory / "elsewhere.sock")}
    server = EmbeddedRedis(short_directory, options=elsewhere, start_timeout_s=0.5)
    with pytest.raises(EmbeddedRedisError, match=r"redis\.log"):
        server.start()
    assert not server.owned
    with pytest.raises(redis.ConnectionError):
        connect(f"unix://{elsewhere['unixsocket']}").ping()


def test_it_takes_a_share_of_the_memory_and_then_refuses(short_directory):
    with EmbeddedRedis(short_directory) as server:
        settings = connect(server.url, timeout_s=5).config_get("maxmemory*")
    assert settings["maxmemory"] == str(int(MEMORY_SHARE * memory_bytes()))
    assert settings["maxmemory-policy"] == "noeviction"
    assert 0 < memory_bytes() <= psutil.virtual_memory().total


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's scheduling classes")
def test_writing_the_file_anew_waits_for_whoever_serves(short_directory):
    with EmbeddedRedis(short_directory, options={"rdb-key-save-delay": "1000"}) as server:
        fill(server)
        client = connect(server.url, timeout_s=5)
        process = psutil.Process(client.info("server")["process_id"])
        client.bgrewriteaof()
        eventually(
            lambda: any(
                os.sched_getscheduler(child.pid) == os.SCHED_IDLE for child in process.children()
            )
        )
        assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER
