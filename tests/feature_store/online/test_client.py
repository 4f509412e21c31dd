"""`Reader`: one connection for reads that requests wait for."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from feature_store.online import EmbeddedRedis, connect
from feature_store.online.client import Reader

GET = "return redis.call('GET', KEYS[1])"


@pytest.fixture
def read(redis_client):
    redis_client.set("key", "value")
    return Reader(redis_client, GET)


def test_it_reads_on_when_the_server_closed_its_connection(read, redis_client):
    assert read.script(keys=["key"], args=[]) == b"value"
    redis_client.client_kill_filter(_type="normal", skipme=True)
    assert read.script(keys=["key"], args=[]) == b"value"


def test_it_reads_on_when_the_server_forgot_the_script(read, redis_client):
    assert read.script(keys=["key"], args=[]) == b"value"
    redis_client.script_flush()
    assert read.script(keys=["key"], args=[]) == b"value"


def test_threads_get_their_own_answers(read, redis_client):
    redis_client.mset({f"key-{number}": str(number) for number in range(200)})
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda number: read.script(keys=[f"key-{number}"], args=[]), range(200))
        assert [int(each) for each in found] == list(range(200))


def test_a_server_that_is_gone_is_an_error_and_one_that_came_back_answers():
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        with EmbeddedRedis(Path(directory)) as server:
            client = connect(server.url, timeout_s=5)
            read = Reader(client, GET)
            client.set("key", "value")
            assert read.script(keys=["key"], args=[]) == b"value"
        with pytest.raises(redis.RedisError):
            read.script(keys=["key"], args=[])
        with EmbeddedRedis(Path(directory)):
            assert read.script(keys=["key"], args=[]) == b"value"


def test_values_and_the_script_come_together(read, redis_client):
    redis_client.mset({"one": "1", "two": "2"})
    redis_client.delete("none")
    assert read.values(["one", "none"]) == ([b"1", None], None)
    assert read.values(["two"], keys=["key"]) == ([b"2"], b"value")
    redis_client.script_flush()
    assert read.values(["two"], keys=["key"]) == ([b"2"], b"value")
    assert read.values(["one"]) == ([b"1"], None)


def test_what_is_done_meanwhile_is_done_once_though_the_server_closed_the_connection(
    read, redis_client
):
    assert read.values(["key"]) == ([b"value"], None)
    done = []
    redis_client.client_kill_filter(_type="normal", skipme=True)
    assert read.values(["key"], meanwhile=lambda: done.append(1)) == ([b"value"], None)
    assert done == [1]


def test_what_fails_meanwhile_leaves_no_answer_behind_for_the_next(read, redis_client):
    redis_client.set("other", "another")
    with pytest.raises(ZeroDivisionError):
        read.values(["key"], meanwhile=lambda: 1 / 0)
    assert read.values(["other"]) == ([b"another"], None)
