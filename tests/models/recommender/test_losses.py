import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommender.losses import Targets, softmax_loss, softmax_loss_reference


def problem(batch: int, n: int, seed: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    users = unit(torch.randn(batch, 5, generator=generator), dim=1)
    items = unit(torch.randn(n, 5, generator=generator), dim=1)
    bias = torch.randn(n, generator=generator) * 0.3
    temperature = torch.tensor(0.2)
    roles = torch.randint(0, 3, (batch, n), generator=generator)  # 0 nothing, 1 target, 2 seen
    roles[:, 0], roles[:, 1] = 1, 0
    users_of, items_of = (roles == 1).nonzero().T
    seen_users, seen_items = (roles == 2).nonzero().T
    weights = torch.rand(len(users_of), generator=generator) + 0.1
    leaves = [each.to(dtype).requires_grad_() for each in (users, items, bias, temperature)]
    return leaves, Targets(users_of, items_of, weights, seen_users, seen_items)


@settings(deadline=None, max_examples=40)
@given(batch=st.integers(1, 6), n=st.integers(2, 30), seed=st.integers(0, 999))
def test_loss_and_gradients_equal_autograd(batch, n, seed):
    fused, targets = problem(batch, n, seed)
    plain, _ = problem(batch, n, seed)
    loss, expected = softmax_loss(*fused, targets), softmax_loss_reference(*plain, targets)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    (2 * loss).backward()
    (2 * expected).backward()
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_extreme_logits_stay_finite():
    (users, items, bias, _), targets = problem(3, 10, 0)
    loss = softmax_loss(users, items, bias * 500, torch.tensor(1e-3), targets)
    assert torch.isfinite(loss)


def test_a_sampled_softmax_with_logq_estimates_the_full_one():
    (users, items, bias, temperature), targets = problem(4, 400, 1)
    seen_nothing = Targets(
        targets.users[:4], targets.items[:4], targets.weights[:4], *torch.empty(2, 0).long()
    )
    full = softmax_loss(users, items, bias, temperature, seen_nothing)
    wanted = seen_nothing.items.unique()
    rest = torch.tensor(sorted(set(range(400)) - set(wanted.tolist())))
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(200):
        drawn = rest[torch.randperm(len(rest), generator=generator)[:100]]
        chosen = torch.cat([wanted, drawn])
        correction = torch.zeros(len(chosen))
        correction[len(wanted) :] = torch.log(torch.tensor(len(rest) / 100))
        local = Targets(
            seen_nothing.users,
            torch.searchsorted(wanted, seen_nothing.items),
            seen_nothing.weights,
            *torch.empty(2, 0).long(),
        )
        estimates.append(
            softmax_loss(users, items[chosen], bias[chosen] + correction, temperature, local).item()
        )
    assert sum(estimates) / 200 == pytest.approx(full.item(), rel=0.02)
