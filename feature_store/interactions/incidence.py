"""Which item has which thing: the incidence matrices that the item graph is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import scipy.sparse as sp

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.log import InteractionLog


def by_users(log: InteractionLog) -> sp.csr_matrix:
    """(n_items, n_users): who met the item."""
    return log.matrix().T.tocsr()


def by_categories(items: pl.DataFrame, catalogue: Catalogue, column: str) -> sp.csr_matrix:
    """(n_items, n_values): the values of one categorical (List(String)) column."""
    pairs = items.select("item_id", pl.col(column).alias("value")).explode("value").drop_nulls()
    return _incidence(pairs["item_id"], pairs["value"], catalogue)


def by_entities(links: pl.DataFrame, catalogue: Catalogue) -> sp.csr_matrix:
    """(n_items, n_entities): the entities that a knowledge graph ties to an item.

    A triple (item, relation, tail) gives the item the thing "relation tail", one (head, relation,
    item) the thing "head relation"; an item is also tied to itself, so that a triple between two
    items joins them directly.
    """
    known = pl.Series(catalogue.item_ids)
    forward = links.filter(pl.col("head").is_in(known.implode())).select(
        pl.col("head").alias("item_id"),
        pl.when(pl.col("tail").is_in(known.implode()))
        .then(pl.col("tail"))
        .otherwise(pl.concat_str("relation", "tail", separator="\0"))
        .alias("value"),
    )
    backward = links.filter(pl.col("tail").is_in(known.implode())).select(
        pl.col("tail").alias("item_id"),
        pl.when(pl.col("head").is_in(known.implode()))
        .then(pl.col("head"))
        .otherwise(pl.concat_str("head", "relation", separator="\0"))
        .alias("value"),
    )
    between = pl.concat([forward, backward]).filter(pl.col("value").is_in(known.implode()))
    itself = between.select("item_id", pl.col("item_id").alias("value")).unique()
    pairs = pl.concat([forward, backward, itself]).unique().sort("item_id", "value")
    return _incidence(pairs["item_id"], pairs["value"], catalogue)


def _incidence(item_ids: pl.Series, values: pl.Series, catalogue: Catalogue) -> sp.csr_matrix:
    rows = catalogue.rows(item_ids.to_list())
    kinds: Sequence[str] = sorted(set(values.to_list()))
    column_of = {value: column for column, value in enumerate(kinds)}
    columns = np.fromiter((column_of[value] for value in values), np.int64, len(values))
    known = rows >= 0
    ones = np.ones(int(known.sum()), np.float32)
    shape = (len(catalogue), max(len(kinds), 1))
    return sp.csr_matrix((ones, (rows[known], columns[known])), shape=shape)
