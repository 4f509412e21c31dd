"""One training: split → item graph → graph network → towers → an edition that answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from feature_store.editions import RecommenderEdition, Scoring
from feature_store.interactions.graph import ItemGraph
from feature_store.interactions.log import InteractionLog
from feature_store.vectors import VectorIndex
from pipelines.checkpoint import Checkpoint
from pipelines.progress import Reporter, Silent
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.factorisation import item_factors
from pipelines.recommender.preparation import Prepared, build_graph
from pipelines.recommender.train_graph_network import train_graph_network
from pipelines.recommender.train_towers import TowerData, train_towers


@dataclass(frozen=True)
class Trained:
    """A trained recommender, as an evaluation sees it.

    Attributes:
        edition: what is published.
        graph: the item graph that it was trained on.
        user_features: (n_users, F) float32 of the data set's users.
    """

    edition: RecommenderEdition
    graph: ItemGraph
    user_features: NDArray[np.float32]
    name: str = "errata"

    def scores(self, history: sp.csr_matrix, user_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `evaluation.Ranker`: the edition's exact scores."""
        return self.edition.scores(history, self.user_features[user_rows])


def train(
    prepared: Prepared,
    training: InteractionLog,
    config: RecommenderConfig,
    *,
    work_directory: Path | None = None,
    key: str = "",
    device: str = "cpu",
    reporter: Reporter | None = None,
    name: str = "errata",
) -> Trained:
    """Train on `training`, the part of `prepared.log` that may be known.

    Args:
        prepared: catalogue and features.
        training: interactions; its rows are those of `prepared`.
        config: everything else.
        work_directory: where checkpoints go; None keeps none.
        key: names data and configuration; a checkpoint with another key is ignored.
        device: where the index lives.
        reporter: progress.
        name: the ranker's name in reports.
    """
    reporter = reporter or Silent()
    torch.set_num_threads(config.threads)
    matrix = training.matrix()
    popularity = np.asarray(matrix.sum(0), dtype=np.float32).ravel()
    graph = build_graph(prepared, training, config)
    reporter.say(f"item graph: {len(prepared.catalogue):,} items, {_describe(graph)}")

    def checkpoint(stage: str) -> Checkpoint | None:
        if work_directory is None:
            return None
        return Checkpoint(work_directory / f"{stage}.safetensors", key=key)

    dimension = config.towers.dimension
    initial = item_factors(_targets_only(matrix, prepared, config), dimension, seed=config.seed)
    graph_vectors = np.zeros((len(prepared.catalogue), 0), np.float32)
    if config.graph_network.enabled:
        graph_vectors = train_graph_network(
            graph,
            prepared.catalogue,
            np.concatenate([prepared.content, initial], axis=1),
            config.graph_network,
            interactions=matrix,
            seed=config.seed,
            checkpoint=checkpoint("graph_network"),
            reporter=reporter,
        )
    data = TowerData(
        catalogue=prepared.catalogue,
        graph=graph,
        histories=config.history.matrix(training),
        user_features=prepared.user_features,
        content=prepared.content,
        graph_vectors=graph_vectors,
        types=prepared.types,
        popularity=popularity,
        initial=initial,
    )
    model, outputs = train_towers(
        data, config.towers, seed=config.seed, checkpoint=checkpoint("towers"), reporter=reporter
    )
    vectors = outputs.vectors.numpy().copy()
    edition = RecommenderEdition(
        catalogue=prepared.catalogue,
        items=prepared.items,
        item_vectors=vectors,
        history_vectors=outputs.history_vectors.numpy().copy(),
        bias=outputs.bias.numpy().copy(),
        popularity=popularity,
        user_tower=model.user_tower.eval(),
        d_hidden=config.towers.hidden,
        index=VectorIndex.build(vectors, config.index, device=device),
        scoring=Scoring(temperature=float(outputs.temperature)),
        history=config.history,
        content=prepared.content_spec,
        user_features=prepared.user_feature_spec,
    )
    return Trained(edition=edition, graph=graph, user_features=prepared.user_features, name=name)


def _targets_only(
    matrix: sp.csr_matrix, prepared: Prepared, config: RecommenderConfig
) -> sp.csr_matrix:
    """The interactions with items that the towers learn to rank."""
    if config.towers.target_types is None:
        return matrix
    kept = prepared.catalogue.mask(config.towers.target_types).astype(np.float32)
    targets = sp.csr_matrix(matrix @ sp.diags(kept))
    targets.eliminate_zeros()
    return targets


def _describe(graph: ItemGraph) -> str:
    edges = sum(len(each) for each in graph.edges.values())
    return f"{edges:,} edges of {len(graph.edges)} types"
