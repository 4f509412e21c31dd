import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.dual_partial import DualPartial
from feature_store.interactions.partial import (
    DensePartial,
    fit_partial,
    partial_edges,
    partial_weights,
)


def interactions(seed: int, n_users: int = 12, n_items: int = 40) -> sp.csr_matrix:
    met = np.random.default_rng(seed).random((n_users, n_items)) < 0.2
    return sp.csr_matrix(met.astype(np.float32))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    regularisation=st.floats(0.5, 200),
    n_items=st.integers(2, 40),
    chosen=st.integers(1, 40),
)
def test_the_operator_is_the_dense_matrix(seed, regularisation, n_items, chosen):
    matrix = interactions(seed, n_items=n_items)
    dense = DensePartial(
        partial_weights(matrix, regularisation=regularisation, precision="float64")
    )
    dual = DualPartial.fit(matrix, regularisation=regularisation)
    rng = np.random.default_rng(seed)
    items = rng.permutation(n_items)[:chosen]
    np.testing.assert_allclose(dual.columns(items), dense.columns(items), atol=1e-5)
    block = rng.standard_normal((len(items), 3)).astype(np.float32)
    np.testing.assert_allclose(dual.times(block, items), dense.times(block, items), atol=1e-4)
    block = rng.standard_normal((n_items, 3)).astype(np.float32)
    np.testing.assert_allclose(
        dual.transposed_times(block, items), dense.transposed_times(block, items), atol=1e-4
    )


def test_edges_are_those_of_the_dense_matrix():
    matrix = interactions(3)
    catalogue = Catalogue(tuple(f"i{n:02}" for n in range(40)), ("book",) * 15 + ("film",) * 25)
    dense, dual = (
        partial_edges(matrix, catalogue, regularisation=5.0, top_k=4, relation="met", limit=limit)
        for limit in (40, 39)
    )
    assert list(dense) == list(dual)
    for kind, edges in dense.items():
        # The same neighbours, though those that are equally strong may change places.
        np.testing.assert_array_equal(edges.indptr, dual[kind].indptr)
        np.testing.assert_allclose(edges.strength, dual[kind].strength, atol=1e-5)


def test_only_edges_into_the_wanted_types_are_made():
    catalogue = Catalogue(tuple(f"i{n:02}" for n in range(40)), ("book",) * 15 + ("film",) * 25)
    found = partial_edges(
        interactions(3),
        catalogue,
        regularisation=5.0,
        top_k=4,
        relation="met",
        destinations=("film",),
    )
    assert list(found) == [("book", "met", "film"), ("film", "met", "film")]


def test_the_smaller_side_is_inverted():
    few_users = interactions(0, n_users=12, n_items=40)
    assert isinstance(fit_partial(few_users, regularisation=5.0, limit=40), DensePartial)
    assert isinstance(fit_partial(few_users, regularisation=5.0, limit=39), DualPartial)
    few_items = interactions(0, n_users=60, n_items=40)
    assert isinstance(fit_partial(few_items, regularisation=5.0, limit=39), DensePartial)


def test_a_regularisation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="not above 0"):
        DualPartial.fit(interactions(0), regularisation=0)
