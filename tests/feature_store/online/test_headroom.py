import logging

import pytest

from feature_store.online import Headroom, connect
from feature_store.online.headroom import HYSTERESIS, SHARE


def told(headroom, *used):
    """Whether it is full after each of these percentages."""
    found = []
    for percent in used:
        headroom.heed({"used_memory": percent, "maxmemory": 100})
        found.append(headroom.full)
    return found


def test_it_gives_way_above_its_share_and_comes_back_well_below_it():
    assert told(Headroom("all"), 79, 80, 81, 79, 76, 74, 79) == [0, 0, 1, 1, 1, 0, 0]
    assert told(Headroom("all", share=0.5), 51, 46, 44) == [1, 1, 0]
    assert (SHARE, HYSTERESIS) == (0.8, 0.05)


def test_each_change_is_said_once(caplog):
    headroom = Headroom("predictions")
    with caplog.at_level(logging.WARNING):
        told(headroom, 50, 90, 91, 78, 50, 60)
    assert headroom.problem is None
    given_way, again = (each.message for each in caplog.records)
    assert "more than 80 %" in given_way
    assert again == "Redis has room again: predictions are kept"


@pytest.mark.parametrize("memory", [{}, {"maxmemory": 0, "used_memory": 10**12}])
def test_a_server_without_a_limit_is_never_full_and_that_is_said_once(memory, caplog):
    headroom = Headroom("predictions")
    with caplog.at_level(logging.WARNING):
        headroom.heed(memory)
        headroom.heed(memory)
    assert not headroom.full
    (said,) = (each.message for each in caplog.records)
    assert "no maxmemory" in said


def test_a_real_server_is_asked(redis_server, redis_client):
    headroom = Headroom("predictions")
    headroom.look(redis_client)
    assert not headroom.full  # of half the machine's memory
    redis_client.setrange("ballast", 20_000_000, "x")
    limit = redis_client.config_get("maxmemory")["maxmemory"]
    try:
        redis_client.config_set("maxmemory", int(redis_client.info("memory")["used_memory"] / 0.9))
        headroom.look(redis_client)
        assert headroom.full
        redis_client.delete("ballast")
        headroom.look(redis_client)
        assert not headroom.full
    finally:
        redis_client.config_set("maxmemory", limit)


def test_a_server_that_does_not_say_is_taken_for_one_without_a_limit(redis_server, redis_client):
    redis_client.acl_setuser("curious", enabled=True, nopass=True, commands=["+@all", "-info"])
    curious = connect(redis_server.url.replace("unix://", "unix://curious:any@"), timeout_s=5)
    try:
        headroom = Headroom("predictions")
        headroom.look(curious)
        assert not headroom.full
    finally:
        curious.close()
        redis_client.acl_deluser("curious")
