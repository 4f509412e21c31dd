import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.nearest import nearest_edges


@settings(deadline=None, max_examples=40)
@given(
    n_books=st.integers(1, 7),
    n_films=st.integers(1, 7),
    top_k=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_edges_are_the_nearest_of_each_type(n_books, n_films, top_k, seed):
    n = n_books + n_films
    vectors = np.random.default_rng(seed).standard_normal((n, 3)).astype(np.float32)
    vectors[0] = 0
    catalogue = Catalogue(
        tuple(f"{row:02}" for row in range(n)), ("book",) * n_books + ("film",) * n_films
    )
    edges = nearest_edges(vectors, catalogue, top_k=top_k, relation="text")
    for source, source_rows in catalogue.ranges.items():
        for destination, rows in catalogue.ranges.items():
            found = edges.get((source, "text", destination))
            for place, row in enumerate(rows):
                cosines = [
                    float(vectors[row] @ vectors[other])
                    / max(np.linalg.norm(vectors[row]) * np.linalg.norm(vectors[other]), 1e-12)
                    for other in source_rows
                    if other != row
                ]
                expected = sorted((c for c in cosines if c > 1e-6), reverse=True)[:top_k]
                strength = (
                    [] if found is None else found.strength[slice(*found.indptr[place : place + 2])]
                )
                np.testing.assert_allclose([s for s in strength if s > 1e-6], expected, atol=1e-5)
