from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.graph import normalise
from feature_store.interactions.partial import fit_partial, partial_weights
from feature_store.registry import Registry, RegistryError
from pipelines.recommender.neighbour_lists import (
    cosine_lists,
    partial_lists,
    smallest_within_an_error,
)
from pipelines.recommender.preparation import prepare
from pipelines.recommender.training import train
from tests.pipelines.recommender.conftest import interactions_of

HOUR_MS = 3_600_000


def interactions(*, n_users: int, n_items: int, seed: int) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    return sp.csr_matrix((rng.random((n_users, n_items)) < 0.2).astype(np.float32))


def longest_first(row: np.ndarray, length: int) -> np.ndarray:
    """The row with all but its `length` largest positive entries at zero."""
    kept = np.argsort(-row, kind="stable")[:length]
    return np.where(np.isin(np.arange(len(row)), kept) & (row > 0), row, 0)


@pytest.mark.parametrize("limit", [60, 59])  # dense over the items, or over the users
def test_partial_lists_are_the_strongest_weights_of_ease(limit):
    met, targets = interactions(n_users=30, n_items=60, seed=1), np.arange(20, 60)
    weights = fit_partial(met, regularisation=5.0, limit=limit)
    found = partial_lists(weights, n_items=60, targets=targets, length=7).toarray()
    wanted = partial_weights(met, regularisation=5.0)
    wanted[:, :20] = 0
    wanted = np.array([longest_first(row, 7) for row in wanted])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_cosine_lists_are_the_most_alike_with_a_mean_best_score_of_one():
    met, targets = interactions(n_users=40, n_items=25, seed=2), np.arange(5, 25)
    found = cosine_lists(met, targets=targets, length=4, max_pairs=10_000).toarray()
    alike = (normalise(met.T.tocsr()) @ normalise(met.T.tocsr()).T).toarray()
    np.fill_diagonal(alike, 0)
    alike[:, :5] = 0
    wanted = np.array([longest_first(row, 4) for row in alike])
    best = np.asarray((met @ wanted).max(1)).ravel()[met.sum(1).A1 > 0].mean()
    np.testing.assert_allclose(found, wanted / best, rtol=1e-4, atol=1e-6)


def test_too_many_pairs_are_not_joined():
    met = interactions(n_users=40, n_items=25, seed=2)
    assert cosine_lists(met, targets=np.arange(25), length=4, max_pairs=100) is None


def test_nothing_is_preferred_unless_more_helps_beyond_doubt():
    rng = np.random.default_rng(0)
    plain = rng.random(100)
    noisy = plain + 0.01 + rng.standard_normal(100)
    clear = plain + 0.2 + 0.1 * rng.standard_normal(100)
    assert smallest_within_an_error({0.0: plain, 4.0: noisy}) == 0.0
    spread = rng.standard_normal(100)
    no_better = clear + 0.01 * (spread - spread.mean()) + 1e-4
    assert smallest_within_an_error({0.0: plain, 4.0: clear, 8.0: no_better}) == 4.0


@pytest.fixture(scope="module")
def listed(dataset, config):
    quick = config.changed(**{"towers.epochs": 1, "graph_network.enabled": False})
    prepared = prepare(dataset)
    chosen = quick.changed(**{"lists.weight": 20.0, "lists.length": 5, "new_users.enabled": False})
    return train(prepared, prepared.log, chosen).edition, prepared


@pytest.mark.parametrize("kind", ["partial", "cosine"])
def test_an_edition_with_lists_ranks_by_the_sum_of_both_scores(dataset, config, kind):
    prepared = prepare(dataset)
    chosen = config.changed(
        **{
            "towers.epochs": 1,
            "graph_network.enabled": False,
            "new_users.enabled": False,
            "lists.kind": kind,
            "lists.weight": 20.0,
        }
    )
    edition = train(prepared, prepared.log, chosen).edition
    plain = train(prepared, prepared.log, chosen.changed(**{"lists.weight": 0.0})).edition
    assert plain.lists is None
    histories, features = prepared.log.matrix()[:20], prepared.user_features[:20]
    n = len(edition.catalogue)
    lists = edition.lists
    W = sp.csr_matrix((lists.weights, lists.items, lists.indptr), shape=(n, n))
    wanted = plain.scores(histories, features) + (histories @ W).toarray()
    np.testing.assert_allclose(edition.scores(histories, features), wanted, atol=1e-3)
    _, found = edition.recommend(histories, features, k=10)
    exact = np.argsort(-edition.scores(histories, features), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(found, exact)


def chains(n_users: int = 300, n_items: int = 300) -> Dataset:
    """Everybody goes on from item to item in one order: a model of full rank and nothing else."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(n_users):
        begin, at = rng.integers(n_items), user * HOUR_MS
        events += [(f"u{user}", f"i{(begin + n) % n_items}", at + n, "click") for n in range(6)]
        if user % 3 == 0:  # who comes back does so when newcomers are there too
            events.append((f"u{user}", f"i{(begin + 6) % n_items}", n_users * HOUR_MS, "click"))
    items = pl.DataFrame(
        {"item_id": [f"i{n}" for n in range(n_items)], "item_type": ["item"] * n_items}
    )
    return Dataset(interactions=interactions_of(events), items=items)


def test_the_trial_turns_lists_on_where_they_help(config):
    prepared = prepare(chains())
    changes = {"towers.epochs": 1, "graph_network.enabled": False, "linear.rank": 8}
    quick = config.changed(**changes, **{"new_users.min_users": 5, "linear.regularisation": 5.0})
    edition = train(prepared, prepared.log, quick).edition
    assert edition.lists is not None
    history = [[(prepared.catalogue.row_of[f"i{n}"], "click") for n in (12, 11, 10)]]
    _, found = edition.recommend(edition.weigh(history), np.zeros((1, 0), np.float32), k=6)
    shown = {edition.catalogue.item_ids[row] for row in found[0]} - {"i10", "i11", "i12"}
    assert {"i9", "i13"} <= shown
    off = train(prepared, prepared.log, quick.changed(**{"new_users.enabled": False})).edition
    assert off.lists is None  # without a trial nothing says that they help


def test_lists_that_were_changed_on_disk_are_refused(listed, tmp_path):
    edition, _ = listed
    edition.save(tmp_path / "staging")
    registry = Registry(tmp_path / "registry")
    version = registry.publish(
        "recommender",
        tmp_path / "staging",
        data_fingerprint="test",
        code_version="test",
        config={},
        metrics={},
    ).version
    directory, _ = registry.open("recommender", version)
    loaded = type(edition).load(directory, device="cpu")
    np.testing.assert_array_equal(loaded.lists.weights, edition.lists.weights)
    (file,) = (tmp_path / "registry").rglob("neighbour_lists.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    with pytest.raises(RegistryError, match="neighbour_lists"):
        Registry(tmp_path / "registry").open("recommender", version)


def test_an_edition_of_before_there_were_lists_is_read(listed, tmp_path):
    edition, _ = listed
    edition.save(tmp_path)
    (tmp_path / "neighbour_lists.safetensors").unlink()
    assert type(edition).load(tmp_path, device="cpu").lists is None


def test_a_reason_counts_what_the_list_added(listed):
    edition, _ = listed
    lists, n = edition.lists, len(edition.catalogue)
    j = int(np.argmax(np.diff(lists.indptr)))
    first = lists.indptr[j]
    i, weight = int(lists.items[first]), float(lists.weights[first])
    history = sp.csr_matrix(([1.0], ([0], [j])), shape=(1, n), dtype=np.float32)
    asked = edition.item_vectors[[i]], np.array([i])
    sources, parts = edition.reasons(history, *asked)
    _, without = replace(edition, lists=None).reasons(history, *asked)
    assert sources.tolist() == [j]
    added = (parts - without) / edition.scoring.temperature
    np.testing.assert_allclose(added, [[weight]], rtol=1e-3)
