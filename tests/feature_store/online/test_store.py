import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.online import Event, OnlineStore, StoredPrediction
from feature_store.online.store import HISTORY_LENGTH


@pytest.fixture
def store(redis_client) -> OnlineStore:
    return OnlineStore(redis_client)


events = st.builds(
    Event,
    item_id=st.text(min_size=1, max_size=20),
    timestamp_ms=st.integers(0, 2**53 - 1),
    type=st.sampled_from(["click", "view", "dismiss"]),
    weight=st.floats(0.1, 10),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sent=st.lists(events, max_size=8))
def test_a_history_comes_back_newest_first(store, sent):
    user = uuid.uuid4()
    for event in sent:
        store.append(str(user), event)
    user_now = store.user(str(user))
    history, features = user_now.events, user_now.features
    assert history == sent[::-1]
    assert features == {}


def test_the_same_feedback_counts_once(store):
    event = Event("a", 1)
    assert store.append("u", event, feedback_id="f1")
    assert not store.append("u", event, feedback_id="f1")
    assert store.append("u", event, feedback_id="f2")
    assert store.user("u").events == [event, event]


def test_a_history_is_capped(store):
    for number in range(HISTORY_LENGTH + 5):
        store.append("u", Event(str(number), number))
    history = store.user("u").events
    assert len(history) == HISTORY_LENGTH
    assert history[0].item_id == str(HISTORY_LENGTH + 4)


def test_materialising_keeps_what_happened_meanwhile(store):
    store.append("seen", Event("new", 9))
    histories = [("seen", [Event("old", 1)]), ("other", [Event("x", 1), Event("y", 2)])]
    done = store.materialise(histories, {"other": {"age": 25.0}})
    assert (done.loaded, done.kept) == (1, 1)
    assert [event.item_id for event in store.user("seen").events] == ["new"]
    other = store.user("other")
    history, features = other.events, other.features
    assert [event.item_id for event in history] == ["y", "x"]
    assert features == {"age": 25.0}


def test_tenants_do_not_see_each_other(redis_client):
    OnlineStore(redis_client, tenant="one").append("u", Event("a", 1))
    assert OnlineStore(redis_client, tenant="two").user("u").events == []


def test_a_prediction_is_kept_until_its_outcome(store):
    prediction = StoredPrediction("p", "u", "v1", 7)
    store.put_predictions([prediction], ttl_s=60)
    assert store.get_prediction("p") == prediction
    assert store.get_prediction("q") is None


def test_what_a_user_does_not_want_outlives_the_history(store):
    store.append("u", Event("unwanted", 1, "dismiss"), hide=True)
    for number in range(HISTORY_LENGTH):
        store.append("u", Event(str(number), number + 2))
    known = store.user("u")
    assert "unwanted" not in {event.item_id for event in known.events}
    assert known.hidden == ("unwanted",)


def test_what_is_taken_after_all_is_hidden_no_more(store):
    store.append("u", Event("a", 2_000, "dismiss"), hide=True)
    store.append("u", Event("a", 1_000, "click"))  # came late, and was before
    assert store.user("u").hidden == ("a",)
    store.append("u", Event("a", 3_000, "click"))
    assert store.user("u").hidden == ()
    store.append("u", Event("a", 4_000, "dismiss"), hide=True)
    store.append("u", Event("a", 2_500, "dismiss"), hide=True)
    store.append("u", Event("a", 3_500, "click"))
    assert store.user("u").hidden == ("a",)


def test_many_users_and_predictions_take_one_round_trip_each(store):
    store.append("a", Event("x", 1))
    found = store.users(["a", "nobody"])
    assert [len(each.events) for each in found] == [1, 0]
    kept = [StoredPrediction(str(n), None, "v", n) for n in range(3)]
    store.put_predictions(kept, ttl_s=60)
    assert [store.get_prediction(str(n)) for n in range(3)] == kept


def test_a_sample_of_users_is_of_this_tenant(redis_client):
    for tenant in ("a*", "ab"):
        OnlineStore(redis_client, tenant=tenant).append(f"user of {tenant}", Event("x", 1))
    assert OnlineStore(redis_client, tenant="a*").sample_users(10) == ["user of a*"]


def test_of_whom_nothing_is_new_is_not_read_again(store):
    store.append("ann", Event("a", 1), feedback_id="1")
    store.append("bob", Event("b", 2))
    ann, bob = store.stored(["ann", "bob"])
    remembered = {"ann": ann, "bob": bob}
    same = store.stored(["bob", "ann", "nobody"], remembered)
    assert same[0] is bob
    assert same[1] is ann
    assert same[2].read().events == []
    store.append("ann", Event("a", 1), feedback_id="1")  # a duplicate changes nothing
    assert store.stored(["ann"], remembered)[0] is ann
    store.append("ann", Event("c", 3))
    changed, still = store.stored(["ann", "bob"], remembered)
    assert [each.item_id for each in changed.read().events] == ["c", "a"]
    assert still is bob


def test_what_is_done_meanwhile_needs_all_to_be_remembered(store):
    store.append("ann", Event("a", 1))
    remembered = dict(zip(["ann"], store.stored(["ann"]), strict=True))
    done = []
    store.stored(["ann", "bob"], remembered, meanwhile=lambda: done.append("some"))
    assert done == []
    store.append("ann", Event("b", 2))
    found = store.stored(["ann"], remembered, meanwhile=lambda: done.append("all"))
    assert done == ["all"]
    assert [each.item_id for each in found[0].read().events] == ["b", "a"]


CHANGES = st.sampled_from(["append", "hide", "features", "fill", "forget", "nothing"])
USERS = st.sampled_from(["ann", "bob", "cid"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(CHANGES, USERS, st.integers(0, 3)), max_size=25))
def test_what_is_remembered_never_stands_for_what_has_changed(redis_client, changes):
    redis_client.flushdb()
    store, users = OnlineStore(redis_client), ["ann", "bob", "cid"]
    remembered = {}
    for change, user, number in changes:
        event = Event(f"item-{number}", number)
        if change in ("append", "hide"):
            store.append(user, event, feedback_id=f"{number}", hide=change == "hide")
        elif change == "features":
            store.materialise([(user, [])], {user: {"age": number}})
        elif change == "fill":
            store.materialise([(user, [event])], {})
        elif change == "forget":
            store.forget(user)
        found = dict(zip(users, store.stored(users, remembered), strict=True))
        fresh = dict(zip(users, store.stored(users), strict=True))
        assert {name: each.read() for name, each in found.items()} == {
            name: each.read() for name, each in fresh.items()
        }
        remembered = found
