import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.partial import partial_edges, partial_weights


def interactions(seed: int, n_users: int = 30, n_items: int = 9) -> sp.csr_matrix:
    met = np.random.default_rng(seed).random((n_users, n_items)) < 0.3
    return sp.csr_matrix(met.astype(np.float32))


def weights_reference(matrix: sp.csr_matrix, regularisation: float) -> np.ndarray:
    X = matrix.toarray().astype(np.float64)
    P = np.linalg.inv(X.T @ X + regularisation * np.eye(X.shape[1]))
    return np.where(np.eye(len(P), dtype=bool), 0.0, -P / np.diag(P)[None, :])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), regularisation=st.floats(0.5, 50), top_k=st.integers(1, 6))
def test_edges_are_the_largest_positive_weights_into_each_item(seed, regularisation, top_k):
    matrix = interactions(seed)
    catalogue = Catalogue(tuple("abcdefghi"), ("book",) * 4 + ("film",) * 5)
    wanted = weights_reference(matrix, regularisation)
    edges = partial_edges(
        matrix, catalogue, regularisation=regularisation, top_k=top_k, relation="met"
    )
    counts = (matrix.T @ matrix).toarray()
    for source, source_rows in catalogue.ranges.items():
        for destination, rows in catalogue.ranges.items():
            found = edges.get((source, "met", destination))
            for place, row in enumerate(rows):
                column = wanted[source_rows.start : source_rows.stop, row]
                expected = np.sort(column[column > 1e-6])[::-1][:top_k]
                span = slice(*found.indptr[place : place + 2]) if found else slice(0, 0)
                strength = found.strength[span] if found else np.empty(0)
                np.testing.assert_allclose(strength[strength > 1e-6], expected, atol=1e-4)
                if found:
                    ends = found.source[span] + source_rows.start
                    np.testing.assert_array_equal(found.shared[span], counts[ends, row])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("n_items", [1, 40, 1_100])  # within a block, and over one
def test_weights_equal_the_closed_form(precision, n_items):
    matrix = interactions(0, 200, n_items)
    found = partial_weights(matrix, regularisation=50, precision=precision)
    np.testing.assert_allclose(found, weights_reference(matrix, 50), atol=1e-5)


def test_a_regularisation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="not above 0"):
        partial_weights(interactions(0), regularisation=0)
