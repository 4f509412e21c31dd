import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommender.hgnn import HeteroGraphNetwork, link_margin_loss, link_softmax_loss
from models.recommender.max_pool import neighbour_max, neighbour_max_reference

EDGES = [("a", "met", "a"), ("a", "met", "b")]


def network(seed: int = 0) -> HeteroGraphNetwork:
    torch.manual_seed(seed)
    return HeteroGraphNetwork(
        edge_types=EDGES, node_types=["a", "b"], d_own=6, d_heard=6, d_hidden=8, d_out=4
    ).eval()


def forward_reference(net, x, edge_index):
    """Node by node, edge by edge: the equations of the module's docstring."""
    hidden = {kind: list(net.enter_own(rows).relu()) for kind, rows in x.items()}
    spoken = {kind: list(net.enter_heard(rows).relu()) for kind, rows in x.items()}
    for depth, (layer, own) in enumerate(zip(net.layers, net.own, strict=True)):
        updated = {k: [own[net.position_of[k]](row) for row in rows] for k, rows in hidden.items()}
        for (source, relation, destination), pairs in edge_index.items():
            convolution = layer.convs[(source, relation, destination)]
            for node in range(len(hidden[destination])):
                inputs = [spoken[source][s] for s, d in pairs.T.tolist() if d == node]
                projected = [convolution.pool(h).relu() for h in inputs]
                pooled = torch.stack(projected).max(0).values if projected else torch.zeros(8)
                updated[destination][node] = updated[destination][node] + convolution.out(pooled)
        if depth < len(net.layers) - 1:
            updated = {k: [row.relu() for row in rows] for k, rows in updated.items()}
        hidden = spoken = updated
    return {k: torch.stack([row / row.norm() for row in rows]) for k, rows in hidden.items()}


def inputs():
    generator = torch.Generator().manual_seed(3)
    x = {"a": torch.randn(5, 6, generator=generator), "b": torch.randn(3, 6, generator=generator)}
    edge_index = {
        EDGES[0]: torch.tensor([[0, 1, 2, 0], [1, 0, 0, 4]]),
        EDGES[1]: torch.tensor([[0, 4, 4], [0, 0, 1]]),
    }
    return x, edge_index


def test_vectors_follow_the_equations():
    net = network()
    x, edge_index = inputs()
    found, expected = net(x, x, edge_index), forward_reference(net, x, edge_index)
    for kind in x:
        torch.testing.assert_close(found[kind], expected[kind], atol=1e-5, rtol=1e-5)


def test_an_item_without_edges_has_a_unit_vector():
    x, _ = inputs()
    empty = {kind: torch.empty(2, 0, dtype=torch.int64) for kind in EDGES}
    for edge_index in (empty, {}):
        for rows in network()(x, x, edge_index).values():
            torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_a_neighbour_changes_the_vector():
    net = network()
    x, edge_index = inputs()
    before = net(x, x, edge_index)["b"]
    x["a"][4] += 1.0
    after = net(x, x, edge_index)["b"]
    assert not torch.allclose(before[1], after[1])
    torch.testing.assert_close(before[2], after[2])  # item 2 of type b hears nobody


def test_losses_fall_when_the_positive_is_nearer():
    unit = torch.nn.functional.normalize
    anchor = unit(torch.tensor([[1.0, 0.0]]))
    near, far = unit(torch.tensor([[1.0, 0.1]])), unit(torch.tensor([[-1.0, 0.2]]))
    negatives = unit(torch.tensor([[0.2, 1.0], [0.0, -1.0]]))
    for loss in (
        lambda positive: link_margin_loss(anchor, positive, negatives, margin=0.5),
        lambda positive: link_softmax_loss(anchor, positive, negatives, temperature=0.1),
    ):
        assert loss(near) < loss(far)
    assert link_margin_loss(anchor, anchor, -anchor, margin=0.5) == 0


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 6), m=st.integers(1, 6), edges=st.integers(1, 20), seed=st.integers(0, 99))
def test_the_pooled_maximum_and_its_gradient_equal_autograd(n, m, edges, seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, n * m, (edges,), generator=generator).unique()
    edge_index = torch.stack([pairs // m, pairs % m])
    x = torch.rand(n, 3, generator=generator)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(m, 3, generator=generator)
    found = neighbour_max(ours, edge_index, m)
    expected = neighbour_max_reference(plain, edge_index, m)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)
