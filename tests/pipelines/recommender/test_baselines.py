from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pipelines.recommender.baselines import EASE, IALS, DualEASE, ItemKNN, Popularity, TextKNN, tune
from pipelines.recommender.baselines.ease import ease_weights_reference
from pipelines.recommender.baselines.item_knn import item_similarity_reference
from pipelines.recommender.cases import fixed_split
from pipelines.recommender.evaluation import evaluate


def random_interactions(seed, *, n_users=40, n_items=12, density=0.3):
    rng = np.random.default_rng(seed)
    return csr_matrix((rng.random((n_users, n_items)) < density).astype(np.float32))


def two_tastes(n_users=60, n_items=20, seed=0):
    """Even users consume even items, odd users odd ones."""
    rng = np.random.default_rng(seed)
    same = np.arange(n_users)[:, None] % 2 == np.arange(n_items) % 2
    return csr_matrix((same & (rng.random((n_users, n_items)) < 0.6)).astype(np.float32))


FITS = {
    "popularity": Popularity.fit,
    "itemknn": ItemKNN.fit,
    "ease": partial(EASE.fit, regularisation=5.0),
    "ials": partial(IALS.fit, factors=8),
    "text_knn": lambda train: TextKNN.fit(np.eye(train.shape[1], dtype=np.float32)),
}


@pytest.mark.parametrize("name", FITS)
def test_every_baseline_scores_any_block_of_histories(name):
    train = random_interactions(0)
    ranker = FITS[name](train)
    assert ranker.name == name
    block = train[:7]
    scores = ranker.scores(block, np.arange(7))
    assert scores.shape == (7, 12)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores[3:5], ranker.scores(block[3:5], np.array([3, 4])), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", FITS)
def test_every_baseline_answers_somebody_without_a_history(name):
    scores = FITS[name](random_interactions(1)).scores(
        csr_matrix((1, 12), dtype=np.float32), np.array([999])
    )
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ["itemknn", "ease", "ials"])
def test_a_taste_is_learnt_without_a_user_table(name):
    ranker = FITS[name](two_tastes(n_users=300))
    history = csr_matrix((np.ones(2, np.float32), ([0, 0], [0, 2])), shape=(1, 20))
    (scores,) = ranker.scores(history, np.array([12345]))
    unseen = np.array([i for i in range(20) if i not in (0, 2)])
    even = unseen % 2 == 0
    assert np.median(scores[unseen[even]]) > scores[unseen[~even]].max()


def test_popularity_counts_users():
    ranker = Popularity.fit(csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32)))
    assert ranker.scores(csr_matrix((2, 3)), np.arange(2)).tolist() == [[2, 1, 0], [2, 1, 0]]
    with pytest.raises(ValueError, match="history of 4 items, fitted on 3"):
        ranker.scores(csr_matrix((2, 4)), np.arange(2))


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    neighbours=st.integers(1, 15),
    shrink=st.sampled_from([0.0, 3.0, 100.0]),
    normalisation=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_item_knn_equals_the_reference(seed, neighbours, shrink, normalisation):
    train = random_interactions(seed)
    options = {"neighbours": neighbours, "shrink": shrink, "normalisation": normalisation}
    np.testing.assert_allclose(
        ItemKNN.fit(train, **options).similarity.toarray(),
        item_similarity_reference(train, **options),
        rtol=1e-5,
    )


def test_item_knn_does_not_depend_on_its_blocks(monkeypatch):
    train = random_interactions(3)
    whole = ItemKNN.fit(train, neighbours=4).similarity.toarray()
    monkeypatch.setattr("pipelines.recommender.baselines.item_knn._BLOCK_ITEMS", 5)
    np.testing.assert_array_equal(ItemKNN.fit(train, neighbours=4).similarity.toarray(), whole)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), regularisation=st.sampled_from([1.0, 20.0, 500.0]))
def test_dual_ease_scores_as_ease_does(seed, regularisation):
    train = random_interactions(seed)
    rows = np.arange(train.shape[0])
    wanted = EASE.fit(train, regularisation=regularisation).scores(train, rows)
    found = DualEASE.fit(train, regularisation=regularisation).scores(train, rows)
    np.testing.assert_allclose(found, wanted, atol=5e-5)
    with pytest.raises(ValueError, match="regularisation"):
        DualEASE.fit(train, regularisation=0)


@pytest.mark.parametrize("option", [{"neighbours": 0}, {"shrink": -1.0}, {"normalisation": -0.5}])
def test_item_knn_refuses_impossible_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        ItemKNN.fit(random_interactions(0), **option)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    regularisation=st.sampled_from([1.0, 20.0, 500.0]),
    precision=st.sampled_from(["float32", "float64"]),
)
def test_ease_equals_the_reference(seed, regularisation, precision):
    train = random_interactions(seed)
    ranker = EASE.fit(train, regularisation=regularisation, precision=precision)
    expected = ease_weights_reference(train, regularisation=regularisation)
    tolerance = 1e-4 if precision == "float32" else 1e-6
    np.testing.assert_allclose(ranker.weights, expected, atol=tolerance)
    assert ranker.weights.dtype == np.float32


@pytest.mark.parametrize("regularisation", [0.0, -1.0])
def test_ease_needs_regularisation(regularisation):
    with pytest.raises(ValueError, match="not above 0"):
        EASE.fit(random_interactions(0), regularisation=regularisation)


def test_ease_says_when_it_is_too_little():
    train = csr_matrix(np.ones((3000, 50), np.float32))
    with pytest.raises(ValueError, match="not positive definite in float32"):
        EASE.fit(train, regularisation=1e-9, precision="float32")


def test_ials_is_repeatable():
    train = random_interactions(5)
    one, two = (IALS.fit(train, factors=4, seed=3).scores(train, np.arange(40)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_ials_solves_the_users_normal_equations():
    train = random_interactions(6)
    ranker = IALS.fit(train, factors=4, confidence=5.0, regularisation=0.3)
    Y = ranker.model.item_factors.astype(np.float64)
    history = train[0].toarray()[0]
    weights = np.where(history > 0, 5.0, 1.0)
    user = np.linalg.solve(
        (Y * weights[:, None]).T @ Y + 0.3 * np.eye(4), Y.T @ (weights * history)
    )
    np.testing.assert_allclose(ranker.scores(train[:1], np.array([0]))[0], Y @ user, atol=1e-4)


def test_text_knn_is_the_cosine_with_the_mean():
    vectors = np.array([[2, 0], [0, 3], [1, 1], [0, 0]], np.float32)
    history = csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float32))
    scores = TextKNN.fit(vectors).scores(history, np.arange(3))
    half = np.sqrt(0.5)
    expected = [[half, half, 1, 0], [1, 0, half, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert vectors[0, 0] == 2


def test_text_knn_refuses_what_is_no_table():
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        TextKNN.fit(np.ones(4, np.float32))


def tiny_split():
    user, item = two_tastes().nonzero()
    labels = ["train"] * len(user)
    return fixed_split(user, item, labels, n_users=60, n_items=20).with_validation(
        share=0.3, seed=0
    )


def test_tuning_tries_everything_and_keeps_the_best():
    split = tiny_split()
    grid = {"neighbours": [1, 20], "shrink": [0.0, 5.0, 50.0]}
    tuning = tune(
        partial(ItemKNN.fit, split.interactions("train")),
        grid,
        cases=split.cases("validation"),
        metric="recall@5",
    )
    assert len(tuning.tried) == 6
    assert tuning.best.value == max(trial.value for trial in tuning.tried)
    assert tuning.params["neighbours"] == 20
    assert "neighbours" not in tuning.on_edge(grid)


def test_tuning_says_when_the_best_is_on_the_edge_of_the_grid():
    split = tiny_split()
    grid = {"neighbours": [1, 2, 20]}
    fit = partial(ItemKNN.fit, split.interactions("train"))
    tuning = tune(fit, grid, cases=split.cases("validation"), metric="recall@5")
    assert tuning.on_edge(grid) == ("neighbours",)


def test_tuning_refuses_an_empty_grid_and_a_metric_without_a_cutoff():
    split = tiny_split()
    fit, cases = partial(ItemKNN.fit, split.interactions("train")), split.cases("validation")
    with pytest.raises(ValueError, match="without a value"):
        tune(fit, {"neighbours": []}, cases=cases)
    with pytest.raises(ValueError, match="'recall' has no cutoff"):
        tune(fit, {"neighbours": [1]}, cases=cases, metric="recall")


def read_split(folder):
    user, item, labels = [], [], []
    for part in ("train", "test"):
        for line in (folder / f"{part}.txt").read_text().splitlines():
            who, *what = map(int, line.split())
            user += [who] * len(what)
            item += what
            labels += [part] * len(what)
    user, item = np.array(user), np.array(item)
    return fixed_split(user, item, labels, n_users=user.max() + 1, n_items=item.max() + 1)


def test_ease_reaches_its_published_accuracy_on_movielens(data_sets):
    # UltraGCN's split of ML-1M: Recall@20 .2766, NDCG@20 .2676 in EASE's published runs.
    split = read_split(data_sets / "recsys" / "ml-1m")
    train = split.interactions("train")
    ranker = EASE.fit(train, regularisation=800.0, precision="float32")
    popularity = Popularity.fit(train).counts.astype(np.float64)
    evaluation = evaluate(ranker, split.cases("test"), item_popularity=popularity)
    assert evaluation.value("recall@20") == pytest.approx(0.2766, abs=0.001)
    assert evaluation.value("ndcg@20") == pytest.approx(0.2676, abs=0.001)
