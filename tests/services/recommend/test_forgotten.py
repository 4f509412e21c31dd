"""What a process holds in memory of a user, or of a version, goes when it should."""

from __future__ import annotations

import gc
import weakref

from feature_store.online import OnlineStore
from services.recommend.app import create_app
from services.recommend.memory import Shown
from services.recommend.users import KnownUser
from tests.patience import within

from .conftest import publish, serving

eventually = within(20)


def held_of(item_id: str) -> list[object]:
    """What is known of users who met `item_id`, wherever the process keeps it."""
    needle, objects = item_id.encode(), gc.get_objects()
    known = [e for e in objects if type(e) is KnownUser and needle in e.stored.history]
    return [*known, *(e for e in objects if type(e) is Shown and needle in e.history)]


def test_nothing_of_a_forgotten_user_stays_in_a_process_that_nobody_asks(client, redis_client):
    client.post("/v1/feedback", json={"user_id": "u", "item_id": "forgotten-later"})
    asked = client.post("/v1/recommendations", json={"user_id": "u"})
    assert asked.status_code == 200
    assert held_of("forgotten-later")
    OnlineStore(redis_client).forget("u")
    eventually(lambda: not held_of("forgotten-later"))


def test_a_version_that_serves_no_more_is_let_go(registry, settings, tmp_path):
    apps = []

    def build(wanted):
        apps.append(create_app(wanted))
        return apps[0]

    publish(registry, tmp_path / "one")
    with serving(settings(), build) as client:
        client.post("/v1/feedback", json={"user_id": "u", "item_id": "film-sea-01"})
        for seed in range(1, 4):
            served = apps[0].state.service.catalogue(None).served
            before = weakref.ref(served.assortment.base)
            del served
            assert client.post("/v1/recommendations", json={"user_id": "u"}).status_code == 200
            publish(registry, tmp_path / str(seed), seed=seed)
            eventually(lambda before=before: before() is None)
