from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from feature_store.editions import RecommenderEdition, Scoring
from feature_store.editions.additions import AddedItem, fold
from feature_store.editions.neighbour_lists import NeighbourLists
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.vectors import IndexSpec, VectorIndex
from models.recommender.user_tower import UserTower


@pytest.fixture
def edition() -> RecommenderEdition:
    rng = np.random.default_rng(0)
    items = pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(12)],
            "item_type": ["book"] * 6 + ["film"] * 6,
            "title": [f"title {n}" for n in range(12)],
            "genre": [["war"], ["sea"]] * 6,
        }
    ).sort("item_type", "item_id")
    vectors = rng.standard_normal((12, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return RecommenderEdition(
        catalogue=Catalogue.from_items(items),
        items=items,
        item_vectors=vectors,
        history_vectors=vectors.copy(),
        history_tail=np.zeros((12, 0), np.float32),
        bias=np.arange(12, dtype=np.float32),
        popularity=np.arange(12, dtype=np.float32),
        user_tower=UserTower(dimension=8, n_types=2, n_features=0, d_hidden=0),
        d_hidden=0,
        index=VectorIndex.build(vectors, IndexSpec(), device="cpu"),
        scoring=Scoring(temperature=0.1),
        history=HistoryPolicy(),
        content=ContentSpec(text_columns=("title",), vocabulary={}, text_dimension=256),
        user_features=UserFeatureSpec(),
    )


def test_a_folded_edition_has_the_added_items_and_lacks_the_withdrawn(edition, tmp_path):
    added = [
        AddedItem("a-new", "film", title="new", like=("i7", "i8"), columns={"genre": ("war",)}),
        AddedItem("by-vector", "book", vector=tuple(float(x) for x in edition.item_vectors[3])),
        AddedItem("i1", "book", like=("i2",)),  # the edition has it
        AddedItem("nowhere", "book", like=("no-such-item",)),
    ]
    folded = fold(edition, added, ["i0", "unknown"])
    assert set(folded.catalogue.item_ids) == {
        *(f"i{n}" for n in range(1, 12)),
        "a-new",
        "by-vector",
    }
    assert list(folded.catalogue.item_types) == sorted(folded.catalogue.item_types)

    for item_id in ("i1", "i7", "i11"):  # each row moved with all that belongs to it
        old, new = edition.catalogue.row_of[item_id], folded.catalogue.row_of[item_id]
        np.testing.assert_array_equal(folded.item_vectors[new], edition.item_vectors[old])
        assert folded.bias[new] == edition.bias[old]
        assert folded.items["title"][new] == edition.items["title"][old]
    new = folded.catalogue.row_of["a-new"]
    assert folded.items["title"][new] == "new"
    assert folded.items["genre"][new].to_list() == ["war"]
    liked = [edition.catalogue.row_of[each] for each in ("i7", "i8")]
    mean = edition.item_vectors[liked].mean(0)
    cosine = folded.item_vectors[new] @ mean / np.linalg.norm(mean)
    assert cosine == pytest.approx(np.linalg.norm(folded.item_vectors[new]), abs=1e-5)

    folded.save(tmp_path)
    loaded = RecommenderEdition.load(tmp_path, device="cpu")
    _, rows = loaded.similar(new, k=3)
    assert {"i7", "i8"} & {loaded.catalogue.item_ids[row] for row in rows}


def test_lists_are_folded_with_their_items(edition):
    rows = edition.catalogue.row_of
    pair = ([3.0], ([rows["i7"]], [rows["i11"]]))
    lists = NeighbourLists.of(sp.csr_matrix(pair, shape=(12, 12), dtype=np.float32))
    added = [AddedItem("a-new", "film", like=("i8",))]
    folded = fold(replace(edition, lists=lists), added, ["i0", "i10"])
    assert len(folded.lists) == len(folded.catalogue) == 11
    moved = folded.catalogue.row_of
    history = sp.csr_matrix(([1.0], ([0], [moved["i7"]])), shape=(1, 11), dtype=np.float32)
    parts = folded.lists.parts(history, np.arange(11))
    assert {int(row): float(parts[row, 0]) for row in np.flatnonzero(parts)} == {moved["i11"]: 3.0}


@pytest.mark.parametrize("n_users", [1, 100])
def test_users_stay_where_they_are_when_item_types_come_and_go(edition, n_users):
    torch.manual_seed(0)
    tower = UserTower(dimension=8, n_types=2, n_features=0, d_hidden=4)
    torch.nn.init.normal_(tower.residual[-1].weight)
    edition = replace(edition, user_tower=tower.eval(), d_hidden=4)
    liked, features = ["i7", "i9"], np.zeros((n_users, 0), np.float32)

    def users(of, item_ids):
        row = np.zeros((1, len(of.catalogue)), np.float32)
        row[0, [of.catalogue.row_of[each] for each in item_ids]] = 1
        return of.user_vectors(sp.csr_matrix(np.repeat(row, n_users, 0)), features)

    more = fold(edition, [AddedItem("tune", "audio", like=("i7",))], [])
    assert more.catalogue.types == ("audio", "book", "film")
    np.testing.assert_allclose(users(more, liked), users(edition, liked), atol=1e-6)
    assert np.linalg.norm(users(more, ["tune"]), axis=1) == pytest.approx(1, abs=1e-5)
    fewer = fold(edition, [], [f"i{n}" for n in range(6)])
    assert fewer.catalogue.types == ("film",)
    np.testing.assert_allclose(users(fewer, liked), users(edition, liked), atol=1e-6)


def test_no_change_is_the_same_edition(edition):
    assert fold(edition, [], []) is edition


def test_an_added_item_is_packed_and_unpacked():
    item = AddedItem("x", "film", "t", ("a",), (1.0, 2.0), {"genre": ("war", "sea")})
    assert AddedItem.unpack(item.pack()) == item
