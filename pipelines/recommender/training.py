"""One training: item graph → graph network → towers → an edition that answers.

Where users are seen to appear in time, a trial training goes before it, on what came earlier: how
far lists for new users lean on popularity is fitted on those that the trial has not met, and what
neighbour lists count on those whom it has. The trial goes without the graph network, whose vectors
are for items that nobody has met.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from feature_store.editions import RecommenderEdition, Scoring
from feature_store.editions.neighbour_lists import NeighbourLists
from feature_store.interactions.graph import ItemGraph
from feature_store.interactions.log import InteractionLog
from feature_store.interactions.partial import PartialWeights, fit_partial, is_feasible
from feature_store.vectors import VectorIndex
from pipelines.checkpoint import Checkpoint
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter, Silent
from pipelines.recommender import new_users
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.factorisation import item_factors
from pipelines.recommender.linear_block import LinearBlock, partial_block, spectral_block
from pipelines.recommender.neighbour_lists import choose_weight, cosine_lists, partial_lists
from pipelines.recommender.preparation import Prepared, build_graph
from pipelines.recommender.train_graph_network import train_graph_network
from pipelines.recommender.train_towers import TowerData, train_towers

ITEM_TAIL_LENGTH = 0.3


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
    """`train_together` in one process."""
    trained = train_together(
        ALONE,
        prepared,
        training,
        config,
        work_directory=work_directory,
        key=key,
        device=device,
        reporter=reporter,
        name=name,
    )
    assert trained is not None  # this process leads
    return trained


def train_together(
    group: Group,
    prepared: Prepared,
    training: InteractionLog,
    config: RecommenderConfig,
    *,
    work_directory: Path | None = None,
    key: str = "",
    device: str = "cpu",
    reporter: Reporter | None = None,
    name: str = "errata",
) -> Trained | None:
    """Train on `training`, the part of `prepared.log` that may be known.

    Args:
        group: the processes that train together; each one holds all data.
        prepared: catalogue and features.
        training: interactions; its rows are those of `prepared`.
        config: everything else.
        work_directory: where checkpoints go; None keeps none.
        key: names data and configuration; a checkpoint with another key is ignored.
        device: where the index lives.
        reporter: progress.
        name: the ranker's name in reports.

    Returns:
        what the first process of the group has; None in the others.
    """
    reporter = reporter if reporter is not None and group.leads else Silent()
    torch.set_num_threads(group.threads(config.threads))
    leaning, lists_weight = new_users.NOT_FITTED, config.lists.weight or 0.0
    if (trial := new_users.trial_part(training, config.new_users)) is not None:
        reporter.say(f"trial without the {len(training) - int(trial.sum()):,} newest interactions")
        tried = train_together(
            group,
            prepared,
            training.take(trial),
            config.changed(
                **{"new_users.enabled": False, "graph_network.enabled": False},
                **({"lists.weight": 1.0} if config.lists.weight is None else {}),
            ),
            work_directory=None if work_directory is None else work_directory / "trial",
            key=key,
            device="cpu",
            reporter=reporter,
        )
        if tried is not None:
            features, tried_edition = prepared.user_features, tried.edition
            if config.lists.weight is None:
                lists_weight = choose_weight(tried_edition, training, trial, features, config)
                reporter.say(f"neighbour lists count {lists_weight:g}")
                tried_edition = tried_edition.with_lists_weighed(lists_weight)
            leaning = new_users.fit(tried_edition, training, trial, features, config)
            reporter.say(f"new users lean on popularity: {leaning}")
    matrix = training.matrix()
    popularity = np.asarray(matrix.sum(0), dtype=np.float32).ravel()
    reporter.say(f"drawing the item graph of {len(training):,} interactions")
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
            prepared.content,
            initial,
            config.graph_network,
            interactions=matrix,
            seed=config.seed,
            checkpoint=checkpoint("graph_network"),
            reporter=reporter,
            group=group,
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
        data,
        config.towers,
        seed=config.seed,
        checkpoint=checkpoint("towers"),
        reporter=reporter,
        group=group,
    )
    if not group.leads:
        return None
    torch.set_num_threads(config.threads)
    temperature = float(outputs.temperature)
    tail, lists = _linear(matrix, prepared, config, temperature, lists_weight, reporter)
    vectors = np.concatenate([outputs.vectors.numpy(), tail.items], axis=1)
    edition = RecommenderEdition(
        catalogue=prepared.catalogue,
        items=prepared.items,
        item_vectors=vectors,
        history_vectors=outputs.history_vectors.numpy().copy(),
        history_tail=tail.history,
        bias=outputs.bias.numpy().copy(),
        popularity=new_users.popularity(training, leaning.half_life_days),
        user_tower=model.user_tower.eval(),
        d_hidden=config.towers.hidden,
        index=VectorIndex.build(vectors, config.index, device=device),
        scoring=Scoring(
            temperature=temperature,
            length_power=tail.length_power,
            popularity_share=leaning.share,
        ),
        history=config.history,
        content=prepared.content_spec,
        user_features=prepared.user_feature_spec,
        lists=lists,
    )
    return Trained(edition=edition, graph=graph, user_features=prepared.user_features, name=name)


def _linear(
    matrix: sp.csr_matrix,
    prepared: Prepared,
    config: RecommenderConfig,
    temperature: float,
    lists_weight: float,
    reporter: Reporter,
) -> tuple[LinearBlock, NeighbourLists | None]:
    """The closed-form tail and the neighbour lists, of one fit where both are of the same kind."""
    n_items, limit = len(prepared.catalogue), config.graph.max_partial_items
    feasible = is_feasible(matrix.shape[0], n_items, limit=limit)
    wanted = config.towers.target_types or prepared.catalogue.types
    targets = np.flatnonzero(prepared.catalogue.mask(wanted))

    def is_partial(kind: str, weight: float) -> bool:
        return weight > 0 and (kind == "partial" or (kind == "auto" and feasible))

    tail_is_partial = is_partial(config.linear.kind, config.linear.weight)
    lists_are_partial = is_partial(config.lists.kind, lists_weight)
    weights: PartialWeights | None = None
    if tail_is_partial or lists_are_partial:
        weights = fit_partial(matrix, regularisation=config.linear.regularisation, limit=limit)
    tail = _tail(matrix, weights if tail_is_partial else None, targets, config, temperature)
    if lists_weight == 0:
        return tail, None
    length = config.lists.length
    if weights is not None and lists_are_partial:
        strongest = partial_lists(weights, n_items=n_items, targets=targets, length=length)
    else:
        cosines = cosine_lists(
            matrix, targets=targets, length=length, max_pairs=config.lists.max_pairs
        )
        if cosines is None:
            reporter.say(f"no neighbour lists: over {config.lists.max_pairs:,} pairs share a user")
            return tail, None
        strongest = cosines
    return tail, NeighbourLists.of(strongest, weight=lists_weight)


def _tail(
    matrix: sp.csr_matrix,
    weights: PartialWeights | None,
    targets: NDArray[np.int64],
    config: RecommenderConfig,
    temperature: float,
) -> LinearBlock:
    """The closed-form block, scaled to add `weight` times its score to the towers'; spectral
    without `weights`."""
    linear = config.linear
    if linear.weight == 0:
        nothing = np.zeros((matrix.shape[1], 0), np.float32)
        return LinearBlock(history=nothing, items=nothing, length_power=0.0)
    if weights is not None:
        block = partial_block(matrix, weights, targets=targets, rank=linear.rank, seed=config.seed)
    else:
        block = spectral_block(
            matrix,
            rank=linear.rank,
            seed=config.seed,
            spectrum=linear.spectrum,
            history_degree=linear.history_degree,
        )
    # An item's tail is kept short, so that the vectors stay nearly normalised; the user's is long.
    lengths = np.linalg.norm(block.items, axis=1)
    shrink = ITEM_TAIL_LENGTH / max(float(lengths[lengths > 0].mean()), 1e-12)
    return LinearBlock(
        history=(block.history * (linear.weight * temperature / shrink)).astype(np.float32),
        items=(block.items * shrink).astype(np.float32),
        length_power=block.length_power,
    )


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
