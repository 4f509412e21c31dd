"""A small world with a known shape: readers of one genre like films of the same one."""

import numpy as np
import polars as pl
import pytest

from feature_store.interactions.dataset import Dataset
from pipelines.recommender.config import RecommenderConfig

GENRES = ("war", "sea", "love", "space")


def interactions_of(events: list[tuple[str, str, int, str]]) -> pl.DataFrame:
    """The table of (user, item, milliseconds, type)."""
    return pl.DataFrame(
        events, schema=["user_id", "item_id", "timestamp", "type"], orient="row"
    ).with_columns(
        pl.from_epoch("timestamp", time_unit="ms")
        .dt.cast_time_unit("ms")
        .dt.replace_time_zone("UTC")
    )


def make_dataset(seed: int = 0, n_users: int = 120, per_genre: int = 12) -> Dataset:
    """Books are rich, films sparse; a user's items are mostly of one genre."""
    rng = np.random.default_rng(seed)
    items = [
        (f"{kind}-{genre}-{n:02}", kind, f"a {genre} {kind}", [genre])
        for kind in ("book", "film")
        for genre in GENRES
        for n in range(per_genre)
    ]
    by_genre = {
        (kind, genre): [row[0] for row in items if row[1] == kind and row[3] == [genre]]
        for kind in ("book", "film")
        for genre in GENRES
    }
    events = []
    for user in range(n_users):
        taste = GENRES[user % len(GENRES)]
        for position in range(14):
            kind = "film" if position % 5 == 4 else "book"
            genre = taste if rng.random() < 0.9 else GENRES[rng.integers(len(GENRES))]
            item = by_genre[kind, genre][rng.integers(per_genre)]
            events.append((f"u{user:03}", item, user * 60_000 + position * 3_600_000, "click"))
    return Dataset(
        interactions=interactions_of(events),
        items=pl.DataFrame(items, schema=["item_id", "item_type", "title", "genre"], orient="row"),
        users=pl.DataFrame(
            {
                "user_id": [f"u{user:03}" for user in range(n_users)],
                "club": [[GENRES[user % len(GENRES)]] for user in range(n_users)],
            }
        ),
        links=pl.DataFrame(
            {
                "head": [row[0] for row in items],
                "relation": ["set_in"] * len(items),
                "tail": [f"place-{row[3][0]}" for row in items],
            }
        ),
    )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="session")
def config() -> RecommenderConfig:
    """Small and quick."""
    return RecommenderConfig.load(
        None,
        {
            "threads": 1,
            "towers.dimension": 16,
            "towers.hidden": 16,
            "towers.epochs": 4,
            "towers.batch_size": 32,
            "towers.hide_all": 0.1,
            "graph_network.dimension": 16,
            "graph_network.hidden": 16,
            "graph_network.epochs": 2,
            "graph_network.batch_size": 128,
            "graph_network.negatives": 32,
            "graph.regularisation": 20.0,
        },
    )
