import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommender.item_tower import EdgeBlock, ItemInputs, ItemTower, SparseOperator
from models.recommender.user_tower import (
    Histories,
    UserTower,
    contributions,
    user_vector_reference,
)

N, D, TYPES = 9, 4, 2


def tower(features: int, seed: int) -> UserTower:
    torch.manual_seed(seed)
    net = UserTower(dimension=D, n_types=TYPES, n_features=features, d_hidden=6)
    assert net.residual is not None
    torch.nn.init.normal_(net.residual[2].weight)  # it starts silent
    return net.eval()


histories = st.lists(
    st.lists(st.tuples(st.integers(0, N - 1), st.floats(0.1, 2)), max_size=6),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=40)
@given(users=histories, features=st.integers(0, 2), seed=st.integers(0, 99))
def test_a_batch_of_users_equals_one_user_at_a_time(users, features, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(N, D, generator=generator)
    types = torch.randint(0, TYPES, (N,), generator=generator)
    known = torch.randn(len(users), features, generator=generator)
    net = tower(features, seed)
    batch = Histories(
        rows=torch.tensor([row for each in users for row, _ in each], dtype=torch.int64),
        users=torch.tensor([u for u, each in enumerate(users) for _ in each], dtype=torch.int64),
        weights=torch.tensor([w for each in users for _, w in each], dtype=torch.float32),
        features=known,
    )
    found = net(batch, vectors, types)
    for position, each in enumerate(users):
        rows, weights = [row for row, _ in each], [weight for _, weight in each]
        expected = user_vector_reference(net, rows, weights, known[position], vectors, types)
        torch.testing.assert_close(found[position], expected, atol=1e-5, rtol=1e-4)


def test_contributions_add_up_to_the_cosine():
    vectors = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    history = Histories(
        torch.tensor([1, 4, 7]),
        torch.zeros(3).long(),
        torch.tensor([1.0, 0.5, 2.0]),
        torch.empty(1, 0),
    )
    linear = UserTower(dimension=D, n_types=1, n_features=0, d_hidden=0)
    user = linear(history, vectors, torch.zeros(N).long())
    items = torch.nn.functional.normalize(vectors[:3], dim=1)
    parts = contributions(history, vectors, items)
    torch.testing.assert_close(parts.sum(1), (user @ items.T)[0])


def test_a_new_tower_starts_at_the_plain_sum():
    torch.manual_seed(0)
    new = UserTower(dimension=D, n_types=1, n_features=1, d_hidden=6)
    plain = UserTower(dimension=D, n_types=1, n_features=0, d_hidden=0)
    vectors = torch.randn(N, D)
    history = Histories(torch.tensor([1, 2]), torch.tensor([0, 0]), torch.ones(2), torch.ones(1, 1))
    types = torch.zeros(N).long()
    torch.testing.assert_close(new(history, vectors, types), plain(history, vectors, types))


def random_sparse(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(N, N, generator=generator)
    return torch.where(dense < 0.3, dense, torch.zeros(()))


BLOCK = random_sparse(1)[:4, :5]


def inputs(*, content: int = 3, graph: int = 2, trained: torch.Tensor | None = None) -> ItemInputs:
    generator = torch.Generator().manual_seed(5)
    return ItemInputs(
        content=torch.randn(N, content, generator=generator),
        graph=torch.randn(N, graph, generator=generator),
        edges={"met": EdgeBlock(slice(2, 6), slice(4, 9), SparseOperator(BLOCK.to_sparse()))},
        trained=torch.ones(N, dtype=torch.bool) if trained is None else trained,
    )


def item_tower(**changes) -> ItemTower:
    torch.manual_seed(0)
    options = {"n_items": N, "dimension": D, "d_content": 3, "d_graph": 2, "edge_types": ("met",)}
    return ItemTower(**(options | changes))


def test_vectors_follow_the_equations():
    net, known = item_tower().eval(), inputs()
    torch.nn.init.normal_(net.free_history)
    torch.nn.init.normal_(net.log_weight)
    torch.nn.init.normal_(net.gain)
    z, p = net(known)
    raw = net.free + net.sides["content"](known.content) + net.sides["graph"](known.graph)
    torch.testing.assert_close(z, raw / raw.norm(dim=1, keepdim=True))
    heard = torch.zeros(N, D)
    heard[2:6] = net.gain[0] * BLOCK @ raw[4:9]
    own = net.free_history + net.sides["content_history"](known.content)
    unweighted = heard + own + net.sides["graph_history"](known.graph)
    torch.testing.assert_close(p, unweighted * net.log_weight.exp()[:, None])


def test_unit_history_vectors_are_as_long_as_their_weight():
    net = item_tower(unit_history=True).eval()
    torch.nn.init.normal_(net.log_weight)
    _, p = net(inputs())
    torch.testing.assert_close(p.norm(dim=1), net.log_weight.exp())


def test_an_item_without_interactions_stands_on_what_it_is():
    trained = torch.ones(N, dtype=torch.bool)
    trained[2] = False
    net, known = item_tower().eval(), inputs(trained=trained)
    z, _ = net(known)
    raw = net.sides["content"](known.content) + net.sides["graph"](known.graph)
    torch.testing.assert_close(z[2], raw[2] / raw[2].norm())


def test_the_sparse_product_has_the_dense_gradient():
    dense = random_sparse(2)
    x = torch.randn(N, D, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    target = torch.randn(N, D)
    (SparseOperator(dense.to_sparse())(x) * target).sum().backward()
    ((dense @ y) * target).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_hidden_vectors_differ_from_step_to_step_and_not_when_serving():
    net, known = item_tower(vector_dropout=0.5), inputs()
    assert not torch.equal(net(known)[0], net(known)[0])
    net.eval()
    assert torch.equal(net(known)[0], net(known)[0])


def test_a_tower_of_nothing_is_refused():
    net = item_tower(free_vectors=False, d_content=0, d_graph=0)
    with pytest.raises(ValueError, match="free vectors, content or graph"):
        net(inputs(content=0, graph=0))
