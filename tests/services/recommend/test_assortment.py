"""What is known of a user is kept from one version to the next where both understand it alike."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from feature_store.editions.additions import AddedItem
from feature_store.interactions.history import HistoryPolicy
from feature_store.online import Event
from feature_store.online.records import StoredUser
from services.recommend.assortment import Assortment
from services.recommend.users import KnownUser
from tests.services.recommend.conftest import make_edition


@pytest.fixture(scope="module")
def edition():
    return make_edition()


def user(*item_ids: str) -> KnownUser:
    events = b",".join(Event(each, 0).pack() for each in item_ids)
    return KnownUser(StoredUser(history=b"[" + events + b"]"))


def test_a_user_who_is_remembered_takes_little_more_room_than_the_history(edition):
    assortment = Assortment(edition)
    users = [user(*edition.catalogue.item_ids[:length]) for length in range(1, 101)]
    assortment.seen((), user())
    tracemalloc.start()
    try:
        kept = [assortment.seen((), each) for each in users]
        room, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    written = sum(len(each.told) for each in kept)
    arrays = sum(part.nbytes for each in kept for part in each[1:])
    assert room < 1.5 * (written + arrays) + 1_000 * len(kept)


def test_a_version_of_the_same_items_need_not_understand_users_anew(edition):
    before, known = Assortment(edition), user(*edition.catalogue.item_ids[:3])
    seen = before.seen((), known)
    trained_again = replace(edition, item_vectors=edition.item_vectors[:, ::-1].copy())
    assert Assortment(trained_again, like=before).seen((), known) is seen
    assert Assortment(trained_again).seen((), known) is not seen


def test_a_version_that_weighs_histories_otherwise_understands_users_anew(edition):
    before, known = Assortment(edition), user(*edition.catalogue.item_ids[:3])
    assert len(before.seen((), known).rows) == 3
    shorter = replace(edition, history=HistoryPolicy(max_items=1))
    assert len(Assortment(shorter, like=before).seen((), known).rows) == 1


def test_an_item_that_is_added_speaks_in_histories_from_then_on(edition):
    some = edition.catalogue.item_ids[0]
    before, known = Assortment(edition), user("new")
    assert len(before.seen((), known).rows) == 0
    item = AddedItem("new", item_type=edition.catalogue.item_types[0], title=None, like=(some,))
    after = Assortment(edition, added=[item], like=before)
    assert after.seen((), known).rows.tolist() == [0]
    like_another = replace(item, like=(edition.catalogue.item_ids[1],))
    elsewhere = Assortment(edition, added=[like_another], like=after)
    np.testing.assert_array_equal(elsewhere.seen((), known).rows, [1])
