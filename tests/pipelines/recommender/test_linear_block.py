import numpy as np
import pytest
import scipy.sparse as sp

from feature_store.interactions.graph import normalise
from feature_store.interactions.partial import fit_partial, partial_weights
from pipelines.recommender.factorisation import leading_eigenpairs
from pipelines.recommender.linear_block import partial_block, spectral_block


def interactions(*, n_users: int, n_items: int, seed: int) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    met = rng.random((n_users, n_items)) < 0.2
    met[np.arange(n_users), rng.integers(n_items, size=n_users)] = True
    met[rng.integers(n_users, size=n_items), np.arange(n_items)] = True
    return sp.csr_matrix(met.astype(np.float32))


@pytest.mark.parametrize("limit", [60, 59])  # dense over the items, or over the users
def test_at_full_rank_the_partial_tail_scores_as_ease(limit):
    met = interactions(n_users=30, n_items=60, seed=1)
    targets = np.arange(20, 60)
    weights = fit_partial(met, regularisation=5.0, limit=limit)
    block = partial_block(met, weights, targets=targets, rank=40, seed=0)
    expected = met @ partial_weights(met, regularisation=5.0)[:, targets]
    found = (met @ block.history) @ block.items.T
    np.testing.assert_allclose(found[:, targets], expected, atol=1e-4)
    assert not found[:, :20].any()


@pytest.mark.parametrize(("n", "true_rank", "wanted"), [(300, 300, 8), (40, 40, 40), (60, 5, 20)])
def test_the_leading_eigenpairs_are_those_of_the_dense_matrix(n, true_rank, wanted):
    rng = np.random.default_rng(n)
    directions, _ = np.linalg.qr(rng.standard_normal((n, true_rank)))
    values = 0.8 ** np.arange(true_rank)
    dense = ((directions * values) @ directions.T).astype(np.float32)
    vectors, found = leading_eigenpairs(lambda block: dense @ block, n, wanted, seed=0)
    shown = min(wanted, true_rank)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(wanted), atol=1e-4)
    np.testing.assert_allclose(found[:shown], values[:shown], atol=1e-4)
    alignment = np.abs((vectors[:, :5] * directions[:, :5]).sum(0))
    np.testing.assert_allclose(alignment, 1.0, atol=1e-3)


def test_at_full_rank_the_spectral_tail_is_the_first_order_filter():
    met = interactions(n_users=50, n_items=20, seed=1)
    block = spectral_block(met, rank=20, seed=0, spectrum=1.0, history_degree=0.5)
    normalised = normalise(met).toarray()
    root = np.sqrt(np.asarray(met.sum(0)).ravel())
    expected = (met.toarray() / root) @ normalised.T @ normalised * root
    found = (met @ block.history) @ block.items.T
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), rtol=1e-3)
    best = found.max(1) / np.sqrt(np.asarray(met.sum(1)).ravel())
    np.testing.assert_allclose(best.mean(), 1.0, rtol=1e-4)


def test_damping_makes_a_popular_history_item_speak_more_softly():
    met = interactions(n_users=80, n_items=20, seed=2)
    popularity = np.asarray(met.sum(0)).ravel()
    soft = spectral_block(met, rank=8, seed=0, history_degree=0.9).history
    loud = spectral_block(met, rank=8, seed=0, history_degree=0.1).history
    ratio = np.linalg.norm(soft, axis=1) / np.linalg.norm(loud, axis=1)
    shape = popularity**-0.8
    np.testing.assert_allclose(ratio / ratio.mean(), shape / shape.mean(), rtol=1e-3)
