import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.log import InteractionLog

SIGNALS = ["click", "view", "dismiss"]


def weigh_reference(policy: HistoryPolicy, items, signals):
    newest_first, loudest = [], {}
    events = list(zip(items, signals, strict=True))
    last_word = dict(events)
    for item, signal in reversed(events):
        if item < 0 or signal == "dismiss" or last_word[item] == "dismiss":
            continue
        loud = policy.weak_weight if signal in policy.weak_signals else 1.0
        loudest[item] = max(loudest.get(item, 0), loud)
        if item not in newest_first:
            newest_first.append(item)
    kept = newest_first[: policy.max_items]
    decay = [0.5 ** (age / (policy.half_life_items or np.inf)) for age in range(len(kept))]
    return kept, [loudest[item] * each for item, each in zip(kept, decay, strict=True)]


histories = st.lists(st.tuples(st.integers(-1, 8), st.sampled_from(SIGNALS)), max_size=20)
policies = st.builds(
    HistoryPolicy,
    max_items=st.integers(1, 10),
    half_life_items=st.none() | st.floats(0.5, 20),
    weak_signals=st.sampled_from([(), ("view",)]),
)


@given(histories, policies)
def test_the_request_path_weighs_as_training_does(history, policy):
    items = np.array([item for item, _ in history], np.int64)
    signals = np.array([signal for _, signal in history], dtype=np.str_)
    rows, weights = policy.weigh(items, signals)
    fast_rows, fast_weights = policy.weigh_newest_first(reversed(history))
    assert fast_rows == rows.tolist()
    np.testing.assert_allclose(fast_weights, weights, rtol=1e-6)


@given(histories, policies)
def test_weights_equal_the_obvious_computation(history, policy):
    items = np.array([item for item, _ in history], np.int64)
    signals = np.array([signal for _, signal in history], dtype=np.str_)
    rows, weights = policy.weigh(items, signals)
    kept, expected = weigh_reference(policy, items.tolist(), signals.tolist())
    assert rows.tolist() == kept
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@given(st.lists(histories, min_size=1, max_size=5), policies)
def test_training_and_serving_weigh_a_history_alike(histories, policy):
    flat = [(u, max(i, 0), s) for u, events in enumerate(histories) for i, s in events]
    log = InteractionLog(
        user_ids=tuple(map(str, range(len(histories)))),
        n_items=9,
        user=np.array([u for u, _, _ in flat], np.int64),
        item=np.array([i for _, i, _ in flat], np.int64),
        timestamp_ms=None,
        signal=np.array([s for _, _, s in flat], dtype=np.str_),
        weight=np.ones(len(flat), np.float32),
    )
    matrix = policy.matrix(log)
    for user in range(len(histories)):
        mine = log.user == user
        rows, weights = policy.weigh(log.item[mine], log.signal[mine])
        dense = np.zeros(9, np.float32)
        dense[rows] = weights
        np.testing.assert_array_equal(matrix[user].toarray()[0], dense)


@given(st.lists(histories, min_size=1, max_size=5), policies, st.randoms())
def test_many_users_at_once_weigh_as_each_does_alone(histories, policy, random):
    waiting = [(user, list(events)) for user, events in enumerate(histories)]
    mixed = []  # users in any company, each in its own order
    while waiting := [(user, events) for user, events in waiting if events]:
        user, events = random.choice(waiting)
        mixed.append((user, *events.pop(0)))
    table = pl.DataFrame(
        mixed, schema={"user": pl.Int64, "item": pl.Int64, "type": pl.String}, orient="row"
    )
    matrix = policy.weigh_table(table, users=len(histories), items=9)
    assert matrix.shape == (len(histories), 9)
    for user, events in enumerate(histories):
        items = np.array([item for item, _ in events], np.int64)
        rows, weights = policy.weigh(items, np.array([kind for _, kind in events], dtype=np.str_))
        entries = slice(matrix.indptr[user], matrix.indptr[user + 1])
        assert matrix.indices[entries].tolist() == rows.tolist()
        np.testing.assert_allclose(matrix.data[entries], weights, rtol=1e-6)
