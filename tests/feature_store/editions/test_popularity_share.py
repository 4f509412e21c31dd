import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions import RecommenderEdition, Scoring
from feature_store.editions.neighbour_lists import NeighbourLists
from feature_store.editions.popularity_share import PopularityShare, blend
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.vectors import IndexSpec, VectorIndex
from models.recommender.user_tower import UserTower

N_ITEMS, D = 60, 8
SHARE = PopularityShare(lengths=(0, 2, 8), shares=(0.9, 0.5, 0.0))


@pytest.fixture(scope="module")
def edition() -> RecommenderEdition:
    rng = np.random.default_rng(0)
    items = pl.DataFrame(
        {
            "item_id": [f"i{n:02}" for n in range(N_ITEMS)],
            "item_type": ["book"] * 30 + ["film"] * 30,
        }
    )
    vectors = rng.standard_normal((N_ITEMS, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return RecommenderEdition(
        catalogue=Catalogue.from_items(items),
        items=items,
        item_vectors=vectors,
        history_vectors=rng.standard_normal((N_ITEMS, D)).astype(np.float32),
        history_tail=np.zeros((N_ITEMS, 0), np.float32),
        bias=rng.standard_normal(N_ITEMS).astype(np.float32),
        popularity=rng.integers(0, 500, N_ITEMS).astype(np.float32),
        user_tower=UserTower(dimension=D, n_types=2, n_features=1, d_hidden=0),
        d_hidden=0,
        index=VectorIndex.build(vectors, IndexSpec(), device="cpu"),
        scoring=Scoring(temperature=0.2, candidates=20, popularity_share=SHARE),
        history=HistoryPolicy(),
        content=ContentSpec(text_columns=(), vocabulary={}, text_dimension=0),
        user_features=UserFeatureSpec(numeric={"age": (40.0, 10.0)}),
    )


def histories_of(lengths, seed=0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.choice(N_ITEMS, length, replace=False)) for length in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = np.ones(indptr[-1], np.float32)
    columns = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int32)
    return sp.csr_matrix((data, columns, indptr), shape=(len(lengths), N_ITEMS))


def with_lists(edition: RecommenderEdition) -> RecommenderEdition:
    rng = np.random.default_rng(0)
    strong = sp.random(N_ITEMS, N_ITEMS, 0.1, format="csr", rng=rng, dtype=np.float32)
    return replace(edition, lists=NeighbourLists.of(strong, weight=10.0))


def test_the_share_falls_with_the_length_of_the_history():
    histories, features = histories_of([0, 0, 1, 2, 4, 8, 30]), np.ones((7, 1), np.float32)
    features[1] = 0
    shares = SHARE.of(histories, features)
    assert shares[[0, 1, 3, 5, 6]] == pytest.approx([0.9, 1.0, 0.5, 0.0, 0.0])
    assert 0.5 < shares[2] < 0.9
    assert 0.0 < shares[4] < 0.5


def test_where_nothing_was_fitted_only_those_of_whom_nothing_is_known_get_popularity():
    histories, features = histories_of([0, 0, 1]), np.array([[0.0], [1.0], [0.0]], np.float32)
    assert PopularityShare().of(histories, features).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("lengths", "shares"),
    [((0, 1), (0.5,)), ((1, 0), (0.5, 0.1)), ((-1,), (0.5,)), ((0,), (1.5,))],
)
def test_shares_that_make_no_sense_are_refused(lengths, shares):
    with pytest.raises(ValueError, match=r"lengths|shares"):
        PopularityShare(lengths=lengths, shares=shares)


def test_what_the_model_rules_out_stays_out_of_a_blend():
    model, popular = np.array([[-np.inf, 2.0]], np.float32), np.array([5.0, 1.0], np.float32)
    assert blend(model, popular, 0.25).tolist() == [[-np.inf, 1.75]]
    assert blend(model, popular, np.float32(1)).tolist() == [[5.0, 1.0]]
    assert blend(model, popular, 0.0).tolist() == model.tolist()


def test_a_blended_score_is_the_pool_of_model_and_popularity(edition):
    histories, features = histories_of([2, 30]), np.zeros((2, 1), np.float32)
    users = edition.user_vectors(histories, features)
    model = users @ edition.item_vectors.T / edition.scoring.temperature + edition.bias
    found = edition.scores(histories, features)
    np.testing.assert_allclose(
        found[0], 0.5 * model[0] + 0.5 * np.log1p(edition.popularity), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(found[1], model[1], rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 10), min_size=1, max_size=5),
    seed=st.integers(0, 1_000),
    known=st.booleans(),
    only_films=st.booleans(),
    listed=st.booleans(),
)
def test_search_finds_what_the_exact_scores_rank_first(
    edition, lengths, seed, known, only_films, listed
):
    edition = with_lists(edition) if listed else edition
    histories = histories_of(lengths, seed)
    features = np.full((len(lengths), 1), float(known), np.float32)
    allowed = edition.catalogue.mask(["film"]) if only_films else np.ones(N_ITEMS, np.bool_)
    hidden = [
        histories.indices[slice(*histories.indptr[at : at + 2])] for at in range(len(lengths))
    ]
    scores, rows = edition.retrieval.retrieve(
        edition.user_vectors(histories, features),
        edition.popularity_share(histories, features),
        histories,
        n=N_ITEMS,
        k=5,
        allowed=allowed,
        hidden=[each.astype(np.int64) for each in hidden],
    )
    exact = edition.scores(histories, features)
    for at, mine in enumerate(hidden):
        exact[at, ~allowed] = -np.inf
        exact[at, mine] = -np.inf
        best = np.sort(exact[at])[::-1][:5]
        np.testing.assert_allclose(scores[at, :5], best, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(exact[at, rows[at, :5]], best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("listed", [False, True])
def test_pairs_have_the_scores_of_lists(edition, listed):
    edition = with_lists(edition) if listed else edition
    histories, features = histories_of([0, 1, 30]), np.zeros((3, 1), np.float32)
    users, items = np.array([0, 1, 1, 2]), np.array([5, 7, 50, 7])
    np.testing.assert_allclose(
        edition.pair_scores(
            edition.user_vectors(histories, features),
            edition.popularity_share(histories, features),
            histories,
            who=users,
            rows=items,
        ),
        edition.scores(histories, features)[users, items],
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_share_travels_with_the_edition_and_one_without_it_is_read(edition, tmp_path):
    edition.save(tmp_path)
    assert RecommenderEdition.load(tmp_path, device="cpu").scoring.popularity_share == SHARE
    card = json.loads((tmp_path / "edition.json").read_text())
    del card["scoring"]["popularity_share"]
    (tmp_path / "edition.json").write_text(json.dumps(card))
    old = RecommenderEdition.load(tmp_path, device="cpu")
    assert old.scoring.popularity_share == PopularityShare()
