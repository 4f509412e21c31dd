import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import ItemGraph, edges_reference
from feature_store.interactions.incidence import by_categories, by_entities

TYPES = ("book", "film")


def catalogue(n_books: int, n_films: int) -> Catalogue:
    ids = [f"i{n:02}" for n in range(n_books + n_films)]
    return Catalogue(tuple(ids), tuple(["book"] * n_books + ["film"] * n_films))


@settings(deadline=None, max_examples=60)
@given(
    n_books=st.integers(1, 6),
    n_films=st.integers(1, 6),
    top_k=st.integers(1, 5),
    min_shared=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_edges_equal_the_obvious_computation(n_books, n_films, top_k, min_shared, seed):
    items = catalogue(n_books, n_films)
    dense = np.random.default_rng(seed).random((len(items), 7)) < 0.4
    graph = ItemGraph.build(
        {"met": sp.csr_matrix(dense)}, items, top_k=top_k, min_shared={"met": min_shared}
    )
    for source in TYPES:
        for destination in TYPES:
            expected = edges_reference(
                sp.csr_matrix(dense),
                items.ranges[source],
                items.ranges[destination],
                top_k=top_k,
                min_shared=min_shared,
            )
            edges = graph.edges.get((source, "met", destination))
            for row, wanted in enumerate(expected):
                found = edges.strength[edges.indptr[row] : edges.indptr[row + 1]] if edges else []
                # Equal strengths may come in either order: compare what is kept by strength.
                np.testing.assert_allclose(found, [each[1] for each in wanted], atol=1e-5)


def test_users_of_many_items_join_them_less():
    # Users 0 and 1 each join items 0-1; user 2, of six items, joins 0-2.
    met = np.zeros((6, 3))
    met[[0, 1], 0] = met[[0, 1], 1] = 1
    met[:, 2] = 1
    graph = ItemGraph.build({"met": sp.csr_matrix(met)}, catalogue(5, 1), top_k=5)
    edges = graph.edges[("book", "met", "book")]
    sources = edges.source[edges.indptr[0] : edges.indptr[1]].tolist()
    assert sources[0] == 1
    assert edges.strength[0] > 3 * edges.strength[1]
    assert edges.shared[0] == 3


def test_categories_and_entities_join_items():
    items = catalogue(2, 2)
    table = pl.DataFrame(
        {
            "item_id": ["i00", "i01", "i02", "i03"],
            "genre": [["war"], ["war", "sea"], ["sea"], None],
        },
        schema_overrides={"genre": pl.List(pl.String)},
    )
    genre = by_categories(table, items, "genre")
    assert (genre @ genre.T).toarray()[0].tolist() == [1, 1, 0, 0]
    links = pl.DataFrame(
        {
            "head": ["i00", "i01", "i02", "tolstoy"],
            "relation": ["written_by", "written_by", "adapts", "wrote"],
            "tail": ["tolstoy", "tolstoy", "i00", "i03"],
        }
    )
    entity = by_entities(links, items)
    joined = (entity @ entity.T).toarray() > 0
    assert joined[0].tolist() == [True, True, True, False]  # author shared, and the film adapts it
    assert joined[3].tolist() == [False, False, False, True]


def test_an_incidence_of_another_catalogue_is_refused():
    with pytest.raises(ValueError, match="'met' has 3 items, the catalogue 4"):
        ItemGraph.build({"met": sp.csr_matrix((3, 2))}, catalogue(2, 2), top_k=3)
