import numpy as np
import pytest
import scipy.sparse as sp

from pipelines.recommender.cases import leave_last_out
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.evaluation import evaluate
from pipelines.recommender.preparation import build_graph, prepare
from pipelines.recommender.training import train


@pytest.fixture(scope="module")
def prepared(dataset):
    return prepare(dataset)


@pytest.fixture(scope="module")
def trained(prepared, config):
    return train(prepared, prepared.log, config)


def test_a_reader_of_a_genre_is_shown_that_genre_in_every_type(trained):
    edition = trained.edition
    rows = edition.catalogue.rows([f"book-sea-{n:02}" for n in range(4)])
    history = sp.csr_matrix(
        (np.ones(4, np.float32), (np.zeros(4, int), rows)), shape=(1, len(edition.catalogue))
    )
    features = np.zeros((1, edition.user_features.dimension), np.float32)
    for kind in ("book", "film"):
        allowed = edition.catalogue.mask([kind])
        _, found = edition.recommend(history, features, k=5, allowed=allowed)
        shown = [edition.catalogue.item_ids[row] for row in found[0]]
        assert sum("-sea-" in item for item in shown) >= 4, shown


def test_a_user_without_history_is_placed_by_features(trained):
    edition = trained.edition
    nothing = sp.csr_matrix((1, len(edition.catalogue)), dtype=np.float32)
    features = edition.user_features.encode([{"club": ["love"]}])
    _, found = edition.recommend(nothing, features, k=10)
    shown = [edition.catalogue.item_ids[row] for row in found[0]]
    assert sum("-love-" in item for item in shown) >= 7, shown


def test_the_same_seed_gives_the_same_model(prepared, trained, config):
    again = train(prepared, prepared.log, config)
    np.testing.assert_array_equal(again.edition.item_vectors, trained.edition.item_vectors)
    other = train(prepared, prepared.log, config.changed(seed=1))
    assert not np.array_equal(other.edition.item_vectors, trained.edition.item_vectors)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"towers.negatives": 64, "towers.target_types": ("film",), "graph_network.loss": "margin"},
        {"graph.strength": "cosine", "linear.kind": "spectral", "graph.in_memory_pairs": 0},
    ],
)
def test_two_threads_give_the_same_model_again(prepared, changes):
    """At sizes where a step's work is shared: below some 30,000 numbers one thread does it all."""
    config = RecommenderConfig(threads=2).changed(
        **{
            "towers.epochs": 1,
            "towers.batch_size": 64,
            "graph_network.epochs": 4,
            "graph_network.negatives": 1_024,
            "lists.weight": 2.0,
            "linear.rank": 16,
            **changes,
        }
    )
    first, *others = (_tensors(train(prepared, prepared.log, config).edition) for _ in range(3))
    for other in others:
        for name, values in first.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)


def _tensors(edition):
    """Every array of an edition, by name."""
    tower = {name: each.numpy() for name, each in edition.user_tower.state_dict().items()}
    names = ("item_vectors", "history_vectors", "history_tail", "bias", "popularity")
    return tower | {name: getattr(edition, name) for name in names} | vars(edition.lists)


def test_search_and_re_ranking_agree_with_the_exact_scores(trained, prepared):
    edition = trained.edition
    histories = prepared.log.matrix()[:20]
    features = prepared.user_features[:20]
    exact = np.argsort(-edition.scores(histories, features), axis=1, kind="stable")[:, :10]
    _, found = edition.recommend(histories, features, k=10)
    np.testing.assert_array_equal(found, exact)


def test_an_edition_is_read_as_it_was_written(trained, prepared, tmp_path):
    trained.edition.save(tmp_path)
    loaded = type(trained.edition).load(tmp_path, device="cpu")
    histories, features = prepared.log.matrix()[:5], prepared.user_features[:5]
    np.testing.assert_allclose(
        loaded.scores(histories, features), trained.edition.scores(histories, features), atol=1e-5
    )
    assert loaded.history == trained.edition.history
    assert loaded.catalogue == trained.edition.catalogue


def test_no_held_out_interaction_makes_an_edge(prepared, config):
    log = prepared.log
    split = leave_last_out(
        log.user, log.item, log.timestamp_ms, n_users=log.n_users, n_items=log.n_items
    )
    training = log.take(split.part == "train")
    graph = build_graph(prepared, training, config)
    met = training.matrix()
    together = (met.T @ met).toarray()
    for (source, relation, destination), edges in graph.edges.items():
        if relation != "met":
            continue
        sources, rows = prepared.catalogue.ranges[source], prepared.catalogue.ranges[destination]
        ends = np.repeat(np.arange(len(rows)), np.diff(edges.indptr)) + rows.start
        counts = together[edges.source + sources.start, ends]
        np.testing.assert_array_equal(edges.shared, counts)


def test_weak_signals_make_edges_that_histories_hear_through(dataset, config):
    import polars as pl

    from feature_store.interactions.dataset import Dataset

    is_film = pl.col("item_id").str.starts_with("film")
    seen = dataset.interactions.with_columns(
        type=pl.when(is_film).then(pl.lit("view")).otherwise(pl.col("type"))
    )
    prepared = prepare(Dataset(seen, dataset.items))
    heard = config.changed(
        **{"history.weak_signals": ("view",), "towers.epochs": 1, "graph_network.enabled": False}
    )
    deaf = heard.changed(**{"graph.weak_signals": False})
    assert ("film", "weak", "film") in build_graph(prepared, prepared.log, heard).edges
    assert not any(kind[1] == "weak" for kind in build_graph(prepared, prepared.log, deaf).edges)
    films = prepared.catalogue.mask(["film"])
    vectors = [
        train(prepared, prepared.log, each).edition.history_vectors for each in (heard, deaf)
    ]
    assert not np.allclose(vectors[0][films], vectors[1][films], atol=1e-3)


@pytest.mark.parametrize("ablation", ["towers_only", "no_balanced_sampler", "users_in_graph"])
def test_ablations_are_one_flag_away(prepared, config, ablation):
    quick = config.changed(**{"towers.epochs": 1, "graph_network.epochs": 1}).ablated(ablation)
    trained = train(prepared, prepared.log, quick)
    assert np.isfinite(trained.edition.item_vectors).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"towers.negatives": 20},
        {"towers.within_type": True},
        {"towers.target_types": ("film",), "towers.epochs": 12},
        {"towers.vector_dropout": 0.3},
        {"towers.hidden": 0, "towers.unit_history": True},
        {"towers.free_vectors": False, "towers.epochs": 12},
        {"graph.strength": "cosine"},
        {"linear.kind": "spectral", "linear.rank": 24},
        {"graph_network.loss": "margin"},
    ],
)
def test_every_variant_finds_what_is_held_out(prepared, config, changes):
    log = prepared.log
    split = leave_last_out(
        log.user,
        log.item,
        log.timestamp_ms,
        n_users=log.n_users,
        n_items=log.n_items,
        validation=False,
        among=prepared.catalogue.mask(["film"]),
    )
    trained = train(prepared, log.take(split.part == "train"), config.changed(**changes))
    cases = split.cases("test", candidates=prepared.catalogue.mask(["film"]))
    found = evaluate(trained, cases, item_popularity=np.ones(log.n_items), cutoffs=(5,))
    # A film of four genres with twelve each: chance is 5 / 48 ≈ 0.1, knowing the genre 5 / 12.
    assert found.value("hr@5") > 0.25


def test_a_new_item_without_interactions_lies_near_its_genre(dataset, config):
    import polars as pl

    from feature_store.interactions.dataset import Dataset

    new = pl.DataFrame(
        {
            "item_id": ["film-space-new"],
            "item_type": ["film"],
            "title": ["a space film"],
            "genre": [["space"]],
        }
    )
    link = pl.DataFrame(
        {"head": ["film-space-new"], "relation": ["set_in"], "tail": ["place-space"]}
    )
    grown = Dataset(
        interactions=dataset.interactions,
        items=pl.concat([dataset.items, new]),
        users=dataset.users,
        links=pl.concat([dataset.links, link]),
    )
    prepared = prepare(grown)
    edition = train(
        prepared, prepared.log, config.changed(**{"towers.vector_dropout": 0.3})
    ).edition
    row = edition.catalogue.row_of["film-space-new"]
    _, near = edition.similar(row, k=8)
    shown = [edition.catalogue.item_ids[each] for each in near]
    assert sum("-space-" in item for item in shown) >= 6, shown
