"""Trains the graph network on the item graph's own links, and embeds every item.

Node features are content and, where an item has interactions, its factors; a link's two ends are
pulled together against uniform negatives of the destination's type, one relation per batch, the
relations balanced (2T-HGNN, arXiv 2403.05185).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import EdgeType, ItemGraph
from models.recommender.hgnn import HeteroGraphNetwork, link_margin_loss, link_softmax_loss
from models.recommender.neighbours import Adjacency, BalancedLinkSampler, NeighbourSampler
from pipelines.checkpoint import Checkpoint, epoch_generator
from pipelines.progress import Reporter
from pipelines.recommender.config import GraphNetworkConfig
from pipelines.recommender.preparation import CO_INTERACTION, WEAK_SIGNAL

USER = "user"
# What users did is what is to be predicted; shared tags and entities only carry messages.
LINK_RELATIONS = (CO_INTERACTION, WEAK_SIGNAL, "had", "had_by")
_INFERENCE_NODES = 4_096


def train_graph_network(
    graph: ItemGraph,
    catalogue: Catalogue,
    features: NDArray[np.float32],
    config: GraphNetworkConfig,
    *,
    interactions: sp.csr_matrix,
    seed: int,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> NDArray[np.float32]:
    """(n_items, config.dimension) float32 unit vectors.

    Args:
        graph: edges of the training interactions, metadata and links.
        catalogue: rows and item types.
        features: (n_items, F) float32 node features.
        config: sizes and schedule.
        interactions: (n_users, n_items); nodes of their own when `config.users_in_graph`.
        seed: of weights and draws.
        checkpoint: where a killed run goes on.
        reporter: progress.
    """
    x = {
        kind: torch.from_numpy(features[rows.start : rows.stop])
        for kind, rows in catalogue.ranges.items()
    }
    adjacency = {kind: _adjacency(graph, kind) for kind in graph.edges}
    if config.users_in_graph:
        x[USER] = torch.zeros(interactions.shape[0], features.shape[1])
        adjacency |= _user_edges(interactions, catalogue)
    torch.manual_seed(seed)
    network = HeteroGraphNetwork(
        edge_types=list(adjacency),
        node_types=list(x),
        d_in=features.shape[1],
        d_hidden=config.hidden,
        d_out=config.dimension,
        n_layers=len(config.fanouts),
    )
    if adjacency:
        _fit(network, x, adjacency, config, seed=seed, checkpoint=checkpoint, reporter=reporter)
    return _embed(network, x, adjacency, catalogue, config, seed=seed)


def _fit(
    network: HeteroGraphNetwork,
    x: dict[str, Tensor],
    adjacency: dict[EdgeType, Adjacency],
    config: GraphNetworkConfig,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> None:
    neighbours = NeighbourSampler(adjacency, fanouts=config.fanouts)
    taught = {kind: each for kind, each in adjacency.items() if kind[1] in LINK_RELATIONS}
    links = BalancedLinkSampler(
        {kind: each.edge_index() for kind, each in (taught or adjacency).items()},
        batch_size=config.batch_size,
        balanced=config.balanced,
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    done = checkpoint.resume(network, optimizer) if checkpoint else 0
    network.train()
    with reporter.bar("graph network", config.epochs) as bar:
        bar.advance(done)
        for epoch in range(done, config.epochs):
            generator = epoch_generator(seed, epoch)
            losses = [
                _step(network, optimizer, neighbours, x, kind, pairs, config, generator)
                for kind, pairs in links.epoch(generator)
            ]
            if checkpoint:
                checkpoint.save(network, optimizer, epoch=epoch + 1)
            bar.advance(1, f"link loss {np.mean(losses):.4f}")


def _step(
    network: HeteroGraphNetwork,
    optimizer: torch.optim.Optimizer,
    neighbours: NeighbourSampler,
    x: dict[str, Tensor],
    edge_type: EdgeType,
    pairs: Tensor,
    config: GraphNetworkConfig,
    generator: torch.Generator,
) -> float:
    source, _, destination = edge_type
    n_destinations = len(x[destination])
    drawn = torch.randint(n_destinations, (config.negatives,), generator=generator)
    ends = [(source, pairs[0]), (destination, pairs[1]), (destination, drawn)]
    seeds, places = _unique_seeds(ends)
    subgraph = neighbours.sample(seeds, generator=generator)
    inputs = {kind: x[kind][rows] for kind, rows in subgraph.nodes.items()}
    vectors = network(inputs, subgraph.edge_index)
    anchor, positive, negatives = (
        vectors[kind][place] for (kind, _), place in zip(ends, places, strict=True)
    )
    loss = (
        link_softmax_loss(anchor, positive, negatives, temperature=config.temperature)
        if config.loss == "softmax"
        else link_margin_loss(anchor, positive, negatives, margin=config.margin)
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


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
    x: dict[str, Tensor],
    adjacency: dict[EdgeType, Adjacency],
    catalogue: Catalogue,
    config: GraphNetworkConfig,
    *,
    seed: int,
) -> NDArray[np.float32]:
    """Every item's vector from all its neighbours, a block of items at a time."""
    network.eval()
    fanouts = config.fanouts
    if USER not in x:  # the graph is pruned: all neighbours of an item are few
        widest = max((int(each.indptr.diff().max()) for each in adjacency.values()), default=1)
        fanouts = (widest,) * len(fanouts)
    neighbours = NeighbourSampler(adjacency, fanouts=fanouts)
    generator = epoch_generator(seed, 0)
    embedded = np.zeros((len(catalogue), config.dimension), np.float32)
    with torch.inference_mode():
        for kind, rows in catalogue.ranges.items():
            for start, stop in _blocks(len(rows)):
                seeds = {kind: torch.arange(start, stop)}
                subgraph = neighbours.sample(seeds, generator=generator)
                inputs = {name: x[name][nodes] for name, nodes in subgraph.nodes.items()}
                vectors = network(inputs, subgraph.edge_index)[kind][: stop - start]
                embedded[rows.start + start : rows.start + stop] = vectors.numpy()
    return embedded


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
