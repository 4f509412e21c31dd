"""Loads offline histories and user features into the online store."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.user_features import by_user_id
from feature_store.online import Event, Materialised, OnlineStore
from pipelines.progress import Bar, Reporter


def materialise(dataset: Dataset, store: OnlineStore, *, reporter: Reporter) -> Materialised:
    """Write every user's history and features.

    A user who already has a history online keeps it.
    """
    table = dataset.interactions.with_columns(
        timestamp_ms=pl.col("timestamp").dt.epoch("ms").fill_null(0)
    ).sort("timestamp_ms", maintain_order=True)
    n_users = table["user_id"].n_unique()
    features = by_user_id(dataset.users)
    with reporter.bar("online histories", n_users) as bar:
        return store.materialise(_histories(table, bar), features)


def _histories(table: pl.DataFrame, bar: Bar) -> Iterator[tuple[str, list[Event]]]:
    columns = ("item_id", "timestamp_ms", "type", "weight")
    for (user_id,), rows in table.group_by("user_id", maintain_order=True):
        yield str(user_id), [Event(*row) for row in rows.select(columns).iter_rows()]
        bar.advance()
