"""What `errata index build` does: users to measure on, changes to take in, a version to publish."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import redis
from numpy.typing import NDArray

from errata import __version__
from errata.cli.serve import redis_url
from errata.console import err
from errata.settings import Settings
from feature_store.editions import RecommenderEdition
from feature_store.editions.additions import AddedItem
from feature_store.editions.additions import fold as fold_changes
from feature_store.editions.indexing import IndexReport
from feature_store.online import CatalogueChanges, OnlineStore, connect
from feature_store.online.store import HISTORY_LENGTH
from feature_store.registry import Manifest, Registry

# (item id, interaction type), newest first.
History = Sequence[tuple[str, str]]


def folded(edition: RecommenderEdition, settings: Settings, tenant: str) -> RecommenderEdition:
    """The edition with the changes of the catalogue, where there is a Redis that knows of any."""
    if settings.redis_url is None and not settings.redis_directory.exists():
        return edition
    with redis_url(settings) as url:
        changes = CatalogueChanges(connect(url, timeout_s=10), tenant=tenant).since(0)
    if changes is None:
        return edition
    added = [AddedItem.unpack(raw) for _, raw in changes.added]
    folded = fold_changes(edition, added, changes.withdrawn)
    err.print(
        f"{len(edition.catalogue):,} items, {len(folded.catalogue):,} after the changes",
        highlight=False,
    )
    return folded


def histories_of_redis(settings: Settings, tenant: str, queries: int) -> list[History]:
    """Up to `queries` users who have a history in the online store.

    Raises:
        redis.RedisError: the store cannot be read.
    """
    with redis_url(settings) as url:
        store = OnlineStore(connect(url, timeout_s=10), tenant=tenant)
        try:
            known = store.users(store.sample_users(queries))
        except redis.RedisError as error:
            raise redis.ConnectionError(f"could not read users from Redis: {error}") from error
    newest_first = (
        sorted(user.events, key=lambda event: event.timestamp_ms, reverse=True) for user in known
    )
    return [[(event.item_id, event.type) for event in events] for events in newest_first]


def histories_of_tables(interactions: pl.DataFrame, queries: int, seed: int) -> list[History]:
    """Up to `queries` users of the tables, drawn by `seed`."""
    ids = interactions["user_id"].unique().sort()
    chosen = ids.sample(min(queries, len(ids)), seed=seed)
    kept = (
        interactions.filter(pl.col("user_id").is_in(chosen.implode()))
        .sort("timestamp", descending=True, nulls_last=True, maintain_order=True)
        .group_by("user_id", maintain_order=True)
        .head(HISTORY_LENGTH)
        .group_by("user_id", maintain_order=True)
        .agg("item_id", "type")
    )
    return [
        list(zip(items, kinds, strict=True))
        for items, kinds in kept.select("item_id", "type").iter_rows()
    ]


def user_vectors(edition: RecommenderEdition, histories: Iterable[History]) -> NDArray[np.float32]:
    """Vectors, (n, d) float32, of those who have a history of items that the edition knows."""
    row_of = edition.catalogue.row_of
    events = [[(row_of.get(item, -1), kind) for item, kind in each] for each in histories]
    weighed = edition.weigh(events)
    weighed = weighed.take(np.flatnonzero(np.diff(weighed.indptr)).tolist())
    features = np.zeros((weighed.shape[0], edition.user_features.dimension), np.float32)
    if weighed.shape[0] == 0:
        return np.zeros((0, edition.item_vectors.shape[1]), np.float32)
    return edition.user_vectors(weighed, features)


def publish(
    registry: Registry,
    directory: Path,
    manifest: Manifest,
    edition: RecommenderEdition,
    report: IndexReport,
) -> str:
    """Publish `edition` with all else that the version in `directory` has; returns its version."""
    with tempfile.TemporaryDirectory() as folder:
        staging = Path(folder) / "version"
        edition.save(staging)
        for name in manifest.files:  # the report, and whatever else belongs to the version
            if not (staging / name).exists():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(directory / name, staging / name)
        published = registry.publish(
            manifest.model,
            staging,
            data_fingerprint=manifest.data_fingerprint,
            code_version=__version__,
            config=manifest.config,
            user_key=manifest.user_key,
            metrics=manifest.metrics
            | {"index": report.to_json() | {"built_from": manifest.version}},
        )
    return published.version
