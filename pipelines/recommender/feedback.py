"""Feedback that was collected online, as interactions of the next training."""

from __future__ import annotations

import polars as pl

from feature_store.interactions.dataset import Dataset


def with_feedback(dataset: Dataset, feedback: pl.DataFrame) -> Dataset:
    """The dataset with the outcomes of `FeedbackLog.read` behind its own interactions.

    Where the data come with a published split, feedback belongs to the training part.
    """
    if feedback.is_empty():
        return dataset
    schema = dataset.interactions.schema
    rows = feedback.select(
        "user_id",
        "item_id",
        pl.from_epoch("timestamp_ms", time_unit="ms")
        .dt.replace_time_zone("UTC")
        .cast(schema["timestamp"])
        .alias("timestamp"),
        "type",
        "weight",
        pl.lit("train").alias("split"),
    ).select(*schema)
    return Dataset(
        interactions=pl.concat([dataset.interactions, rows]),
        items=dataset.items,
        users=dataset.users,
        links=dataset.links,
    )
