"""From tables to arrays: catalogue, log, features, item graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import (
    ContentSpec,
    TextEncoder,
    WordLlamaEncoder,
    in_row_order,
)
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.graph import ItemGraph
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.interactions.incidence import by_categories, by_entities, by_users
from feature_store.interactions.log import InteractionLog
from feature_store.interactions.nearest import nearest_edges
from feature_store.interactions.partial import is_feasible, partial_edges
from feature_store.interactions.user_features import UserFeatureSpec
from pipelines.recommender.config import RecommenderConfig

CO_INTERACTION, WEAK_SIGNAL, TEXT = "met", "weak", "text"


@dataclass(frozen=True)
class Prepared:
    """A dataset as arrays, before it is split.

    Attributes:
        items: the item table in the order of the catalogue's rows.
        log: every interaction that speaks for an item.
        content: (n_items, F) float32.
        user_features: (n_users, G) float32, rows as in the log.
    """

    catalogue: Catalogue
    items: pl.DataFrame
    links: pl.DataFrame | None
    log: InteractionLog
    content_spec: ContentSpec
    content: NDArray[np.float32]
    user_feature_spec: UserFeatureSpec
    user_features: NDArray[np.float32]

    @cached_property
    def types(self) -> torch.Tensor:
        """(n_items,) int64 position of each item's type in `catalogue.types`."""
        codes = np.searchsorted(self.catalogue.types, self.catalogue.item_types)
        return torch.from_numpy(codes.astype(np.int64))


def prepare(dataset: Dataset, *, encoder: TextEncoder | None = None) -> Prepared:
    """Encode a dataset; the same tables give the same arrays.

    Raises:
        ValueError: no interaction is left once the negative signals are taken out.
    """
    catalogue = Catalogue.from_items(dataset.items)
    items = in_row_order(dataset.items, catalogue)
    log = InteractionLog.from_table(dataset.interactions, catalogue)
    log = log.take(~log.signals(NEGATIVE_SIGNALS))
    if len(log) == 0:
        raise ValueError("the dataset holds no interaction that speaks for an item")
    has_text = any(
        kind == pl.String
        for name, kind in items.schema.items()
        if name not in ("item_id", "item_type")
    )
    if encoder is None and has_text:
        encoder = WordLlamaEncoder()
    spec = ContentSpec.fit(items, text_dimension=encoder.dimension if encoder else 0)
    user_spec = UserFeatureSpec.fit(dataset.users)
    return Prepared(
        catalogue=catalogue,
        items=items,
        links=dataset.links,
        log=log,
        content_spec=spec,
        content=spec.encode(items, encoder),
        user_feature_spec=user_spec,
        user_features=user_spec.of_table(dataset.users, log.user_ids),
    )


def build_graph(
    prepared: Prepared, training: InteractionLog, config: RecommenderConfig
) -> ItemGraph:
    """The item graph of the training interactions: no held-out interaction makes an edge."""
    graph = config.graph
    strong = training.take(~training.signals(config.history.weak_signals))
    weak = training.take(training.signals(config.history.weak_signals))
    incidences: dict[str, sp.csr_matrix] = {}
    limit, n_items = graph.max_partial_items, len(prepared.catalogue)
    partial = graph.strength == "partial" or (
        graph.strength == "auto" and is_feasible(strong.n_users, n_items, limit=limit)
    )
    if not partial:
        incidences[CO_INTERACTION] = by_users(strong)
    if graph.weak_signals and len(weak):
        incidences[WEAK_SIGNAL] = by_users(weak)
    if graph.metadata:
        for name, kind in prepared.items.schema.items():
            if kind == pl.List(pl.String):
                incidences[name] = by_categories(prepared.items, prepared.catalogue, name)
    if graph.links and prepared.links is not None:
        incidences["links"] = by_entities(prepared.links, prepared.catalogue)
    edges = ItemGraph.build(
        incidences,
        prepared.catalogue,
        top_k=graph.top_k,
        min_shared={CO_INTERACTION: graph.min_shared, WEAK_SIGNAL: graph.min_shared},
        in_memory_pairs=graph.in_memory_pairs,
        memory_mb=graph.memory_mb,
    ).edges
    if partial:
        edges |= partial_edges(
            strong.matrix(),
            prepared.catalogue,
            regularisation=graph.regularisation,
            top_k=graph.top_k,
            relation=CO_INTERACTION,
            limit=limit,
            # Without the graph network only those are heard that end at what the towers rank.
            destinations=None if config.graph_network.enabled else config.towers.target_types,
        )
    if graph.text and prepared.content_spec.text_dimension:
        text = prepared.content[:, : prepared.content_spec.text_dimension]
        edges |= nearest_edges(text, prepared.catalogue, top_k=graph.top_k, relation=TEXT)
    kept = graph.item_types or prepared.catalogue.types
    return ItemGraph(
        node_types=prepared.catalogue.types,
        edges={
            (source, relation, destination): each
            for (source, relation, destination), each in edges.items()
            if source in kept and destination in kept
        },
    )
