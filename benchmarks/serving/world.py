"""A world to serve: an edition of chosen size, published and indexed, and users in Redis.

Items lie around topics, as learned vectors do: a topic's centre plus noise, normalised, and a bias
of 0.3 (in units of the score) for what popularity is worth. A user's history is drawn from one to
three topics, so that user vectors are where real ones are: between the items of a few topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import polars as pl

from feature_store.editions import RecommenderEdition, Scoring
from feature_store.editions.recommender import MODEL_NAME
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.online import Event, OnlineStore, connect
from feature_store.registry import Registry
from feature_store.vectors import IndexSpec, VectorIndex
from models.recommender.user_tower import UserTower

HISTORY_LENGTH = 30
TEMPERATURE, BIAS_SPREAD = 0.1, 0.3
ITEMS_PER_TOPIC = 200
NOISE = 1.2  # of an item's vector around its topic's unit centre, as a length
# The same in 64 dimensions, where the larger one would hide the topics of a million items: with
# this, the 16 nearest of 4,096 lists hold .98 of the 100 nearest items, as of trained vectors.
NOISE_64 = 0.8


@dataclass(frozen=True)
class World:
    """What a benchmark serves.

    Attributes:
        histories: (n_users, history_length) item rows, oldest first.
    """

    edition: RecommenderEdition
    histories: np.ndarray

    @property
    def user_ids(self) -> list[str]:
        """Ids of the users whose histories are in Redis."""
        return [f"u{number}" for number in range(len(self.histories))]

    def user_vectors(self, n: int) -> np.ndarray:
        """(n, d + r) vectors of the first n users."""
        edition = self.edition
        events = [[(int(row), "click") for row in each[::-1]] for each in self.histories[:n]]
        features = np.zeros((len(events), edition.user_features.dimension), np.float32)
        return edition.user_vectors(edition.weigh(events), features)

    def bodies(self, *, k: int) -> list[bytes]:
        """A request body a user."""
        return [orjson.dumps({"user_id": user_id, "k": k}) for user_id in self.user_ids]

    def publish(self, registry: Registry, staging: Path, *, alias: str = "champion") -> str:
        """A new version that `alias` names."""
        self.edition.save(staging)
        version = registry.publish(
            MODEL_NAME,
            staging,
            data_fingerprint="synthetic",
            code_version="benchmark",
            config={},
            metrics={},
        ).version
        registry.promote(MODEL_NAME, version, alias=alias)
        return version

    def fill_redis(self, url: str) -> None:
        """Write every user's history."""
        store = OnlineStore(connect(url, timeout_s=30))
        ids = self.edition.catalogue.item_ids
        users = (
            (user_id, [Event(ids[row], place + 1, "click") for place, row in enumerate(history)])
            for user_id, history in zip(self.user_ids, self.histories, strict=True)
        )
        store.materialise(users, {})


def make_world(
    *,
    n_items: int,
    d: int,
    n_users: int,
    spec: IndexSpec,
    seed: int = 0,
    history_length: int = HISTORY_LENGTH,
    noise: float = NOISE,
) -> World:
    """A world of `n_items` vectors of `d` dimensions."""
    rng = np.random.default_rng(seed)
    n_topics = max(8, n_items // ITEMS_PER_TOPIC)
    centres = _unit(rng.standard_normal((n_topics, d), dtype=np.float32))
    topic = rng.integers(n_topics, size=n_items)
    around = _unit(rng.standard_normal((n_items, d), dtype=np.float32)) * noise
    vectors = _unit(centres[topic] + around)
    items = pl.DataFrame(
        {
            "item_id": [f"item-{row:08}" for row in range(n_items)],
            "item_type": np.where(np.arange(n_items) < n_items // 2, "book", "film"),
            "title": [f"The title of number {row}" for row in range(n_items)],
        }
    )
    edition = RecommenderEdition(
        catalogue=Catalogue.from_items(items),
        items=items,
        item_vectors=vectors,
        history_vectors=vectors,
        history_tail=np.zeros((n_items, 0), np.float32),
        bias=rng.standard_normal(n_items, dtype=np.float32) * BIAS_SPREAD,
        popularity=rng.pareto(1.2, n_items).astype(np.float32),
        user_tower=UserTower(dimension=d, n_types=2, n_features=0, d_hidden=d),
        d_hidden=d,
        index=VectorIndex.build(vectors, spec, device="cpu"),
        scoring=Scoring(temperature=TEMPERATURE),
        history=HistoryPolicy(),
        content=ContentSpec(text_columns=("title",), vocabulary={}, text_dimension=256),
        user_features=UserFeatureSpec(),
    )
    return World(edition, _histories(topic, n_topics, n_users, history_length, rng))


def world_of(registry: Registry, *, n_users: int, seed: int = 0) -> World:
    """The champion of a registry; a user's history is an item and those that are near to it."""
    directory, _ = registry.open(MODEL_NAME, "champion")
    edition = RecommenderEdition.load(directory, device="cpu")
    rng = np.random.default_rng(seed)
    liked = rng.integers(len(edition.catalogue), size=n_users)
    length = min(HISTORY_LENGTH, len(edition.catalogue))
    _, near = edition.index.search(edition.item_vectors[liked], length)
    return World(edition, near)


def _histories(
    topic: np.ndarray, n_topics: int, n_users: int, length: int, rng: np.random.Generator
) -> np.ndarray:
    by_topic = np.argsort(topic, kind="stable")
    starts = np.searchsorted(topic[by_topic], np.arange(n_topics + 1))
    histories = np.empty((n_users, length), np.int64)
    for user in range(n_users):
        liked = rng.integers(n_topics, size=rng.integers(1, 4))
        pool = np.concatenate([by_topic[starts[each] : starts[each + 1]] for each in liked])
        histories[user] = rng.choice(pool, length, replace=len(pool) < length)
    return histories


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit
