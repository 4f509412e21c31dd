import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommender.neighbours import (
    Adjacency,
    BalancedLinkSampler,
    NeighbourSampler,
    draw_neighbours,
    smallest_per_owner,
    smallest_per_owner_reference,
)

AA, AB, BB = ("a", "met", "a"), ("a", "met", "b"), ("b", "met", "b")


def random_adjacency(n_destinations: int, n_sources: int, seed: int) -> Adjacency:
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(n_destinations, n_sources, generator=generator) < 0.4
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), present.sum(1).cumsum(0)])
    return Adjacency(indptr=indptr, indices=present.nonzero()[:, 1])


@settings(deadline=None)
@given(
    owners=st.lists(st.integers(0, 5), max_size=40),
    limit=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_the_vectorised_choice_equals_the_obvious_one(owners, limit, seed):
    owner = torch.tensor(sorted(owners), dtype=torch.int64)
    keys = torch.rand(len(owner), generator=torch.Generator().manual_seed(seed))
    found = smallest_per_owner(owner, keys, limit=limit)
    assert torch.equal(found, smallest_per_owner_reference(owner, keys, limit=limit))


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(1, 12), m=st.integers(1, 12), fanout=st.integers(1, 12), seed=st.integers(0, 99)
)
def test_neighbours_are_real_distinct_and_as_many_as_there_can_be(n, m, fanout, seed):
    adjacency = random_adjacency(n, m, seed)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    pairs = draw_neighbours(
        adjacency, rows, fanout=fanout, generator=torch.Generator().manual_seed(seed)
    )
    drawn = list(map(tuple, pairs.T.tolist()))
    real = set(map(tuple, adjacency.edge_index().T.tolist()))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= real
    degrees = adjacency.indptr.diff()[rows]
    counts = torch.bincount(pairs[1], minlength=n)[rows]
    assert torch.equal(counts, degrees.clamp(max=fanout))


def test_every_neighbour_is_drawn_equally_often():
    adjacency = Adjacency(torch.tensor([0, 10]), torch.arange(10))
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(2_000):
        pairs = draw_neighbours(adjacency, torch.tensor([0]), fanout=3, generator=generator)
        counts[pairs[0]] += 1
    assert (counts / 2_000 - 0.3).abs().max() < 0.05


def test_a_sampled_subgraph_is_the_full_neighbourhood_when_the_fanout_allows():
    adjacency = {AA: random_adjacency(6, 6, 1), AB: random_adjacency(5, 6, 2)}
    sampler = NeighbourSampler(adjacency, fanouts=(99, 99))
    seeds = {"b": torch.tensor([3, 0])}
    subgraph = sampler.sample(seeds, generator=torch.Generator().manual_seed(0))

    assert subgraph.nodes["b"].tolist() == [3, 0]  # seeds first, nothing reaches b
    first_hop = {
        (int(subgraph.nodes["a"][source]), int(subgraph.nodes["b"][destination]))
        for source, destination in subgraph.edge_index[AB].T
    }
    full = {tuple(pair) for pair in adjacency[AB].edge_index().T.tolist()}
    assert first_hop == {pair for pair in full if pair[1] in (0, 3)}
    reached = {source for source, _ in first_hop}
    second_hop = {
        (int(subgraph.nodes["a"][source]), int(subgraph.nodes["a"][destination]))
        for source, destination in subgraph.edge_index[AA].T
    }
    full = {tuple(pair) for pair in adjacency[AA].edge_index().T.tolist()}
    assert second_hop == {pair for pair in full if pair[1] in reached}


def links(n: int) -> torch.Tensor:
    return torch.stack([torch.arange(n), torch.arange(n)])


def test_a_majority_relation_is_cut_to_the_minority_and_redrawn_each_epoch():
    sampler = BalancedLinkSampler({AA: links(1_000), BB: links(50)}, batch_size=32, smallest=10)
    generator = torch.Generator().manual_seed(0)
    epochs = []
    for _ in range(2):
        seen = {AA: [], BB: []}
        for kind, pairs in sampler.epoch(generator):
            assert pairs.shape[1] <= 32
            seen[kind] += pairs[0].tolist()
        assert len(seen[AA]) == len(seen[BB]) == 50
        assert sorted(seen[BB]) == list(range(50))
        epochs.append(set(seen[AA]))
    assert epochs[0] != epochs[1]
    assert sampler.links_per_epoch == 100


def test_unbalanced_shows_every_link():
    sampler = BalancedLinkSampler({AA: links(1_000), BB: links(50)}, batch_size=64, balanced=False)
    assert sampler.links_per_epoch == 1_050


def test_no_links_is_an_error():
    with pytest.raises(ValueError, match="no links"):
        BalancedLinkSampler({AA: links(0)}, batch_size=8)
