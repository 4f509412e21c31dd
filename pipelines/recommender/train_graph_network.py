"""Trains the graph network on what users did, and embeds every item from what it is.

Messages pass along what an item has before anyone met it: near texts, shared categories, links.
An item's own input is its content; its neighbours speak with their content and their factors of
the interactions. Taught are co-interaction links: their two ends are pulled together against
uniform negatives of the destination's type, one relation per batch, the relations balanced
(2T-HGNN, arXiv 2403.05185). A new item is thus embedded exactly as an old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import EdgeType, ItemGraph
from models.recommender.hgnn import HeteroGraphNetwork, link_margin_loss, link_softmax_loss
from models.recommender.neighbours import (
    Adjacency,
    BalancedLinkSampler,
    NeighbourSampler,
    Subgraph,
)
from pipelines.checkpoint import Checkpoint, epoch_generator
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter
from pipelines.recommender.config import GraphNetworkConfig
from pipelines.recommender.preparation import CO_INTERACTION, WEAK_SIGNAL

USER = "user"
# What users did is taught and carries no message; with users as nodes (an ablation) it does both.
TAUGHT_RELATIONS = (CO_INTERACTION, WEAK_SIGNAL)
_INFERENCE_NODES = 4_096


@dataclass(frozen=True)
class _Nodes:
    """Inputs per node type, (n_type, ·): what a node is to itself, and to its neighbours."""

    own: dict[str, Tensor]
    heard: dict[str, Tensor]

    def of(self, subgraph: Subgraph) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The inputs of a subgraph's nodes."""
        own = {kind: self.own[kind][rows] for kind, rows in subgraph.nodes.items()}
        return own, {kind: self.heard[kind][rows] for kind, rows in subgraph.nodes.items()}


def train_graph_network(
    graph: ItemGraph,
    catalogue: Catalogue,
    content: NDArray[np.float32],
    factors: NDArray[np.float32],
    config: GraphNetworkConfig,
    *,
    interactions: sp.csr_matrix,
    seed: int,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
    group: Group = ALONE,
) -> NDArray[np.float32]:
    """(n_items, config.dimension) float32 unit vectors; (n_items, 0) where nothing joins items
    but what users did.

    Args:
        graph: edges of the training interactions, metadata, text and links.
        catalogue: rows and item types.
        content: (n_items, C) float32.
        factors: (n_items, d) float32 of the interactions; zero for an item without any.
        config: sizes and schedule.
        interactions: (n_users, n_items); nodes of their own when `config.users_in_graph`.
        seed: of weights and draws.
        checkpoint: where a killed run goes on.
        reporter: progress.
        group: the processes that train together; each takes a share of a batch's links.
    """
    edges = {kind: _adjacency(graph, kind) for kind in graph.edges}
    taught = {kind: each for kind, each in edges.items() if kind[1] in TAUGHT_RELATIONS}
    carrying = {kind: each for kind, each in edges.items() if kind not in taught}
    nodes = _item_nodes(catalogue, content, factors)
    if config.users_in_graph:
        between = _user_edges(interactions, catalogue)
        taught, carrying = taught | between, carrying | between
        for inputs in (nodes.own, nodes.heard):
            width = next(iter(inputs.values())).shape[1]
            inputs[USER] = torch.zeros(interactions.shape[0], width)
    if not taught or not carrying:
        reporter.say("graph network: left out, as items are joined by nothing but interactions")
        return np.zeros((len(catalogue), 0), np.float32)
    torch.manual_seed(seed)
    network = HeteroGraphNetwork(
        edge_types=list(carrying),
        node_types=list(nodes.own),
        d_own=content.shape[1],
        d_heard=content.shape[1] + factors.shape[1],
        d_hidden=config.hidden,
        d_out=config.dimension,
        n_layers=len(config.fanouts),
    )
    links = BalancedLinkSampler(
        {kind: each.edge_index() for kind, each in taught.items()},
        batch_size=config.batch_size,
        balanced=config.balanced,
    )
    _fit(
        network,
        nodes,
        carrying,
        links,
        config,
        seed=seed,
        checkpoint=checkpoint,
        reporter=reporter,
        group=group,
    )
    return _embed(network, nodes, carrying, catalogue, config, seed=seed)


def _fit(
    network: HeteroGraphNetwork,
    nodes: _Nodes,
    carrying: dict[EdgeType, Adjacency],
    links: BalancedLinkSampler,
    config: GraphNetworkConfig,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
    group: Group,
) -> None:
    neighbours = NeighbourSampler(carrying, fanouts=config.fanouts)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    done = checkpoint.resume(network, optimizer) if checkpoint else 0
    group.agree(network)
    network.train()
    with reporter.bar("graph network", config.epochs) as bar:
        if done:
            reporter.say(f"graph network: going on after epoch {done}")
        bar.advance(done)
        for epoch in range(done, config.epochs):
            generator = epoch_generator(seed, epoch)
            losses = [
                _step(network, optimizer, neighbours, nodes, kind, pairs, config, generator, group)
                for kind, pairs in links.epoch(generator)
            ]
            if checkpoint and group.leads:
                checkpoint.save(network, optimizer, epoch=epoch + 1)
            bar.advance(1, f"link loss {np.mean(losses):.4f}")


def _step(
    network: HeteroGraphNetwork,
    optimizer: torch.optim.Optimizer,
    neighbours: NeighbourSampler,
    nodes: _Nodes,
    edge_type: EdgeType,
    pairs: Tensor,
    config: GraphNetworkConfig,
    generator: torch.Generator,
    group: Group,
) -> float:
    source, _, destination = edge_type
    drawn = torch.randint(len(nodes.own[destination]), (config.negatives,), generator=generator)
    pairs = pairs[:, group.share(pairs.shape[1])]
    ends = [(source, pairs[0]), (destination, pairs[1]), (destination, drawn)]
    seeds, places = _unique_seeds(ends)
    subgraph = neighbours.sample(seeds, generator=group.own_draws(generator))
    vectors = network(*nodes.of(subgraph), subgraph.edge_index)
    # A row is taken many times. Of indexing, threads would sum its gradient in any order.
    anchor, positive, negatives = (
        vectors[kind].index_select(0, place) for (kind, _), place in zip(ends, places, strict=True)
    )
    loss = (
        link_softmax_loss(anchor, positive, negatives, temperature=config.temperature)
        if config.loss == "softmax"
        else link_margin_loss(anchor, positive, negatives, margin=config.margin)
    )
    loss = group.of_whole(loss, pairs.shape[1])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    group.sum_gradients(network)
    optimizer.step()
    return float(group.sum(loss.detach().clone()))


def _unique_seeds(ends: list[tuple[str, Tensor]]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Unique seed rows per node type, and for each end where its rows are among them."""
    seeds = {}
    places: list[Tensor] = [torch.empty(0)] * len(ends)
    for kind in dict.fromkeys(kind for kind, _ in ends):
        mine = [position for position, (other, _) in enumerate(ends) if other == kind]
        parts = [ends[position][1] for position in mine]
        seeds[kind], inverse = torch.unique(torch.cat(parts), return_inverse=True)
        split = torch.split(inverse, [len(part) for part in parts])
        for position, place in zip(mine, split, strict=True):
            places[position] = place
    return seeds, places


def _embed(
    network: HeteroGraphNetwork,
    nodes: _Nodes,
    carrying: dict[EdgeType, Adjacency],
    catalogue: Catalogue,
    config: GraphNetworkConfig,
    *,
    seed: int,
) -> NDArray[np.float32]:
    """Every item's vector from all its neighbours, a block of items at a time."""
    network.eval()
    fanouts = config.fanouts
    if USER not in nodes.own:  # the graph is pruned: all neighbours of an item are few
        fanouts = (max(int(each.indptr.diff().max()) for each in carrying.values()),) * len(fanouts)
    neighbours = NeighbourSampler(carrying, fanouts=fanouts)
    generator = epoch_generator(seed, 0)
    embedded = np.zeros((len(catalogue), config.dimension), np.float32)
    with torch.inference_mode():
        for kind, rows in catalogue.ranges.items():
            for start, stop in _blocks(len(rows)):
                seeds = {kind: torch.arange(start, stop)}
                subgraph = neighbours.sample(seeds, generator=generator)
                vectors = network(*nodes.of(subgraph), subgraph.edge_index)[kind]
                embedded[rows.start + start : rows.start + stop] = vectors[: stop - start].numpy()
    return embedded


def _item_nodes(
    catalogue: Catalogue, content: NDArray[np.float32], factors: NDArray[np.float32]
) -> _Nodes:
    spoken = np.concatenate([content, factors], axis=1)
    return _Nodes(
        own={
            kind: torch.from_numpy(content[rows.start : rows.stop])
            for kind, rows in catalogue.ranges.items()
        },
        heard={
            kind: torch.from_numpy(spoken[rows.start : rows.stop])
            for kind, rows in catalogue.ranges.items()
        },
    )


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n, _INFERENCE_NODES):
        yield start, min(start + _INFERENCE_NODES, n)


def _adjacency(graph: ItemGraph, kind: EdgeType) -> Adjacency:
    edges = graph.edges[kind]
    return Adjacency(torch.from_numpy(edges.indptr), torch.from_numpy(edges.source))


def _user_edges(interactions: sp.csr_matrix, catalogue: Catalogue) -> dict[EdgeType, Adjacency]:
    """Edges item → user and user → item for every interaction (the ablation of the paper)."""
    found: dict[EdgeType, Adjacency] = {}
    for kind, rows in catalogue.ranges.items():
        by_user = interactions[:, rows.start : rows.stop].tocsr()
        for edge_type, matrix in (
            ((kind, "had_by", USER), by_user),
            ((USER, "had", kind), by_user.T.tocsr()),
        ):
            if matrix.nnz:
                found[edge_type] = Adjacency(
                    torch.from_numpy(matrix.indptr.astype(np.int64)),
                    torch.from_numpy(matrix.indices.astype(np.int64)),
                )
    return found
