import duckdb
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.interactions import joined
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import ItemGraph, edges_reference
from feature_store.interactions.incidence import by_categories, by_entities

TYPES = ("book", "film")


def catalogue(n_books: int, n_films: int) -> Catalogue:
    ids = [f"i{n:02}" for n in range(n_books + n_films)]
    return Catalogue(tuple(ids), tuple(["book"] * n_books + ["film"] * n_films))


def computed_alike(n_books, n_films, top_k, min_shared, seed, *, in_memory_pairs):
    items = catalogue(n_books, n_films)
    dense = np.random.default_rng(seed).random((len(items), 7)) < 0.4
    graph = ItemGraph.build(
        {"met": sp.csr_matrix(dense)},
        items,
        top_k=top_k,
        min_shared={"met": min_shared},
        in_memory_pairs=in_memory_pairs,
        memory_mb=100,
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


CASES = {
    "n_books": st.integers(1, 6),
    "n_films": st.integers(1, 6),
    "top_k": st.integers(1, 5),
    "min_shared": st.integers(1, 2),
    "seed": st.integers(0, 999),
}


@settings(deadline=None, max_examples=60)
@given(**CASES)
def test_edges_equal_the_obvious_computation(**case):
    computed_alike(**case, in_memory_pairs=None)


@settings(deadline=None, max_examples=8)
@given(**CASES)
def test_edges_joined_on_disk_equal_the_obvious_computation(**case):
    computed_alike(**case, in_memory_pairs=0)


def test_a_join_beyond_its_memory_is_written_to_disk_and_ends_alike(monkeypatch):
    # 5 M pairs in one piece: more groups than fit.
    monkeypatch.setattr(joined, "PAIRS_AT_ONCE", 10**12)
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(1_000), 70)
    item = rng.integers(0, 3_000, len(user))
    met = sp.csr_matrix((np.ones(len(user), np.float32), (item, user)), shape=(3_000, 1_000))
    rows = range(3_000)
    with joined.on_disk(met, memory_mb=100) as table:
        table.connection.execute("SET max_temp_directory_size = '1KB'")
        with pytest.raises(duckdb.OutOfMemoryException, match="max_temp_directory_size"):
            table.strongest(rows, rows, top_k=5, min_shared=1)
        table.connection.execute("SET max_temp_directory_size = '4GB'")
        found = table.strongest(rows, rows, top_k=5, min_shared=1)
    items = Catalogue(tuple(f"{n:04}" for n in rows), ("film",) * 3_000)
    wanted = ItemGraph.build({"met": met}, items, top_k=5).edges["film", "met", "film"]
    np.testing.assert_array_equal(found.indptr, wanted.indptr)
    np.testing.assert_allclose(found.strength, wanted.strength, atol=1e-5)


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
