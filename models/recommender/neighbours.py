"""Neighbour sampling over compressed sparse rows, and balanced draws of training links.

Node types are strings; an edge type is (source type, relation, destination type). Messages flow
from source to destination, so each relation is stored by destination: row `i` of its adjacency
lists the sources that node `i` listens to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EdgeType = tuple[str, str, str]


@dataclass(frozen=True)
class Adjacency:
    """Compressed sparse rows of one edge type.

    Attributes:
        indptr: (n_destinations + 1,) int64.
        indices: (n_edges,) int64 source of each edge, grouped by destination.
    """

    indptr: Tensor
    indices: Tensor

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.indices.numel())

    def edge_index(self) -> Tensor:
        """(2, n_edges) int64: source row, destination row."""
        degrees = self.indptr.diff()
        destinations = torch.arange(len(degrees)).repeat_interleave(degrees)
        return torch.stack([self.indices, destinations])


@dataclass(frozen=True)
class Subgraph:
    """A sampled neighbourhood, renumbered.

    Attributes:
        nodes: node type → (n,) int64 rows of the full graph; the seeds come first, in their order.
        edge_index: edge type → (2, E) int64 in the numbering of `nodes`.
    """

    nodes: dict[str, Tensor]
    edge_index: dict[EdgeType, Tensor]


class NeighbourSampler:
    """Draws, for each seed, up to `fanouts[l]` in-neighbours per edge type at hop `l`.

    GraphSAGE sampling (arXiv 1706.02216), uniform and without replacement, vectorised over CSR.
    """

    def __init__(self, adjacency: Mapping[EdgeType, Adjacency], *, fanouts: Sequence[int]) -> None:
        """`fanouts` has one entry per layer of the network, nearest hop first."""
        self._adjacency = dict(adjacency)
        self._fanouts = tuple(fanouts)

    def sample(self, seeds: Mapping[str, Tensor], *, generator: torch.Generator) -> Subgraph:
        """The neighbourhood of `seeds` (node type → (n,) int64, unique within a type)."""
        nodes = {kind: rows.clone() for kind, rows in seeds.items()}
        frontier = dict(nodes)
        edges: dict[EdgeType, list[Tensor]] = {kind: [] for kind in self._adjacency}
        for fanout in self._fanouts:
            reached: dict[str, list[Tensor]] = {}
            for edge_type, adjacency in self._adjacency.items():
                source, _, destination = edge_type
                if destination not in frontier or frontier[destination].numel() == 0:
                    continue
                pairs = draw_neighbours(
                    adjacency, frontier[destination], fanout=fanout, generator=generator
                )
                edges[edge_type].append(pairs)
                reached.setdefault(source, []).append(pairs[0])
            frontier = {}
            for kind, parts in reached.items():
                known = nodes.get(kind, torch.empty(0, dtype=torch.int64))
                candidates = torch.unique(torch.cat(parts))
                frontier[kind] = candidates[~torch.isin(candidates, known)]
                nodes[kind] = torch.cat([known, frontier[kind]])
        return Subgraph(nodes=nodes, edge_index=_renumber(nodes, edges))


def draw_neighbours(
    adjacency: Adjacency, rows: Tensor, *, fanout: int, generator: torch.Generator
) -> Tensor:
    """Up to `fanout` distinct in-neighbours of each of `rows` (n,): (2, E) source, destination."""
    edges, owners = _edges_of(adjacency, rows)
    keys = torch.rand(len(edges), generator=generator)
    kept = smallest_per_owner(owners, keys, limit=fanout)
    return torch.stack([adjacency.indices[edges[kept]], rows[owners[kept]]])


def smallest_per_owner(owners: Tensor, keys: Tensor, *, limit: int) -> Tensor:
    """Positions of the `limit` smallest keys of each owner, ordered by owner then key.

    Args:
        owners: (E,) int64, non-decreasing.
        keys: (E,) float.
        limit: how many to keep per owner.
    """
    by_key = torch.argsort(keys, stable=True)
    order = by_key[torch.argsort(owners[by_key], stable=True)]
    sorted_owners = owners[order]
    counts = torch.bincount(sorted_owners) if len(owners) else owners
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order)) - starts[sorted_owners]
    return order[rank < limit]


def smallest_per_owner_reference(owners: Tensor, keys: Tensor, *, limit: int) -> Tensor:
    """The obvious twin of `smallest_per_owner`."""
    kept: list[int] = []
    for owner in sorted(set(owners.tolist())):
        positions = [i for i, each in enumerate(owners.tolist()) if each == owner]
        kept += sorted(positions, key=lambda i: (float(keys[i]), i))[:limit]
    return torch.tensor(kept, dtype=torch.int64)


class BalancedLinkSampler:
    """Mini-batches of training links in which no relation drowns another.

    2T-HGNN's balanced multi-link sampler (arXiv 2403.05185, section 3): every epoch, each
    majority relation is undersampled to the size of the smallest one, and the draw is made anew,
    so that over the epochs all links are seen. With `balanced=False` all links are used.
    """

    def __init__(
        self,
        links: Mapping[EdgeType, Tensor],
        *,
        batch_size: int,
        balanced: bool = True,
        smallest: int = 256,
    ) -> None:
        """`links`: edge type → (2, E) int64. No relation is cut below `smallest` links."""
        self._links = {kind: pairs for kind, pairs in links.items() if pairs.shape[1]}
        if not self._links:
            raise ValueError("no links to train on: every edge type is empty")
        self._batch_size = batch_size
        sizes = [pairs.shape[1] for pairs in self._links.values()]
        self._limit = max(min(sizes), smallest) if balanced else max(sizes)

    @property
    def links_per_epoch(self) -> int:
        """How many links one epoch shows."""
        return sum(min(pairs.shape[1], self._limit) for pairs in self._links.values())

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[EdgeType, Tensor]]:
        """Batches (edge type, (2, B) int64 links) in random order."""
        batches: list[tuple[EdgeType, Tensor]] = []
        for edge_type, pairs in self._links.items():
            chosen = torch.randperm(pairs.shape[1], generator=generator)[: self._limit]
            for part in torch.split(chosen, self._batch_size):
                batches.append((edge_type, pairs[:, part]))
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[position]


def _edges_of(adjacency: Adjacency, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of all in-edges of `rows`, and for each the position of its row in `rows`."""
    starts = adjacency.indptr[rows]
    degrees = adjacency.indptr[rows + 1] - starts
    owners = torch.arange(len(rows)).repeat_interleave(degrees)
    first = degrees.cumsum(0) - degrees
    within = torch.arange(len(owners)) - first[owners]
    return starts[owners] + within, owners


def _renumber(
    nodes: Mapping[str, Tensor], edges: Mapping[EdgeType, Sequence[Tensor]]
) -> dict[EdgeType, Tensor]:
    order = {kind: torch.sort(rows) for kind, rows in nodes.items()}
    renumbered = {}
    for edge_type, parts in edges.items():
        source, _, destination = edge_type
        if source not in nodes or destination not in nodes or not parts:
            continue
        pairs = torch.cat(list(parts), dim=1)
        local = []
        for kind, ends in ((source, pairs[0]), (destination, pairs[1])):
            values, positions = order[kind]
            local.append(positions[torch.searchsorted(values, ends)])
        renumbered[edge_type] = torch.stack(local)
    return renumbered
