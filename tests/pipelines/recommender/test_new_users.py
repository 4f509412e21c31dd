"""A world where newcomers begin with what is popular, and their features say nothing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from feature_store.editions.popularity_share import PopularityShare
from feature_store.interactions.dataset import Dataset
from pipelines.recommender import new_users
from pipelines.recommender.baselines import Popularity
from pipelines.recommender.cases import temporal_split
from pipelines.recommender.config import NewUsersConfig
from pipelines.recommender.evaluation import evaluate
from pipelines.recommender.preparation import prepare
from pipelines.recommender.training import train
from tests.pipelines.recommender.conftest import interactions_of

DAY_MS = 86_400_000
N_ITEMS, N_USERS = 80, 260
QUICK = {"graph_network.enabled": False, "towers.epochs": 2, "new_users.min_users": 15}


def make_world() -> Dataset:
    """Everybody acts on a day of their own; an item's chance falls with its number."""
    rng = np.random.default_rng(0)
    chance = 1 / (1 + np.arange(N_ITEMS)) ** 1.2
    chance /= chance.sum()
    events = [
        (f"u{user:03}", f"i{item:02}", user * DAY_MS + place * 60_000, "click")
        for user in range(N_USERS)
        for place, item in enumerate(rng.choice(N_ITEMS, 12, replace=False, p=chance))
    ]
    users = pl.DataFrame(
        {
            "user_id": [f"u{user:03}" for user in range(N_USERS)],
            "lot": [[f"lot-{rng.integers(20)}"] for _ in range(N_USERS)],
        }
    )
    items = pl.DataFrame(
        {"item_id": [f"i{n:02}" for n in range(N_ITEMS)], "item_type": ["item"] * N_ITEMS}
    )
    return Dataset(interactions=interactions_of(events), items=items, users=users)


@pytest.fixture(scope="module")
def prepared():
    return prepare(make_world())


@pytest.fixture(scope="module")
def split(prepared):
    log = prepared.log
    return temporal_split(
        log.user,
        log.item,
        log.timestamp_ms,
        n_users=log.n_users,
        n_items=log.n_items,
        validation_share=0.0,
    )


@pytest.fixture(scope="module")
def trained(prepared, split, config):
    return train(prepared, prepared.log.take(split.part == "train"), config.changed(**QUICK))


def test_new_users_are_served_as_well_as_by_popularity(prepared, split, config, trained):
    known = split.interactions("train")
    cases = split.cases("test")
    assert cases.slices["new_users"].sum() > 15
    counts = np.asarray(known.sum(0), np.float64).ravel()

    def ndcg(ranker):
        found = evaluate(ranker, cases, item_popularity=counts, cutoffs=(20,))
        return found.value("ndcg@20", slice_name="new_users")

    alone = replace(
        trained,
        edition=replace(
            trained.edition,
            scoring=trained.edition.scoring.model_copy(
                update={"popularity_share": PopularityShare()}
            ),
        ),
    )
    popular = ndcg(Popularity.fit(known))
    assert ndcg(alone) < popular - 0.05  # what the towers say of nobody
    assert ndcg(trained) > popular - 0.02


def test_the_share_never_rises_with_the_history_and_ends(trained):
    share = trained.edition.scoring.popularity_share
    assert share.lengths[: len(new_users.LENGTHS)] == new_users.LENGTHS
    assert share.shares[0] >= 0.5
    assert list(share.shares) == sorted(share.shares, reverse=True)
    assert share.shares[-1] == 0


def test_features_that_tell_something_keep_their_word(dataset, config):
    # The world of the readers, each on a day of their own: the club names the genre.
    spread = dataset.interactions.with_columns(
        timestamp=pl.col("timestamp")
        + pl.duration(days=pl.col("user_id").str.slice(1).cast(pl.Int64))
    )
    prepared = prepare(Dataset(spread, dataset.items, dataset.users, dataset.links))
    edition = train(
        prepared,
        prepared.log,
        config.changed(
            **{
                "new_users.min_users": 10,
                "graph_network.enabled": False,
                "towers.hide_all": 0.3,
                "towers.epochs": 15,
            }
        ),
    ).edition
    assert edition.scoring.popularity_share.lengths
    assert edition.scoring.popularity_share.shares[0] <= 0.5


def test_nothing_is_fitted_without_times_newcomers_or_leave(prepared):
    log = prepared.log
    assert new_users.trial_part(log, NewUsersConfig(min_users=15)) is not None
    assert new_users.trial_part(replace(log, timestamp_ms=None), NewUsersConfig()) is None
    assert new_users.trial_part(log, NewUsersConfig(min_users=1_000)) is None
    assert new_users.trial_part(log, NewUsersConfig(enabled=False)) is None


def test_the_trial_is_told_nothing_of_the_newest_part(prepared):
    log = prepared.log
    trial = new_users.trial_part(log, NewUsersConfig(min_users=15))
    assert log.timestamp_ms[trial].max() < log.timestamp_ms[~trial].min()
    assert 0.08 < (~trial).mean() < 0.13


def test_popularity_forgets_at_its_half_life(prepared):
    log = prepared.log
    counts = new_users.popularity(log, None)
    np.testing.assert_array_equal(counts, np.asarray(log.matrix().sum(0)).ravel())
    recent = new_users.popularity(log, 10.0)
    assert recent.sum() == pytest.approx(counts.sum(), rel=1e-4)
    # Two items met once each, ten days apart.
    old, new = np.flatnonzero(log.user == 200)[0], np.flatnonzero(log.user == 210)[0]
    pair = log.take(np.isin(np.arange(len(log)), [old, new]))
    if pair.item[0] != pair.item[1]:
        weights = new_users.popularity(pair, 10.0)[pair.item]
        gap = (pair.timestamp_ms[1] - pair.timestamp_ms[0]) / DAY_MS
        assert weights[1] / weights[0] == pytest.approx(2 ** (gap / 10), rel=1e-4)
