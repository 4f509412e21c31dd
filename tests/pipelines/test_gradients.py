import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from pipelines.gradients import Gradients


def make() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("largest", [1e-3, 1e3])
def test_they_are_what_separate_ones_are(largest: float) -> None:
    ours, theirs = make(), make()
    gradients = Gradients(ours)
    for step in range(3):  # zeroed, they do not add up
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        gradients.zero()
        theirs.zero_grad()
        for model in (ours, theirs):
            model(x).square().sum().backward()
        gradients.clip(largest)
        clip_grad_norm_(theirs.parameters(), largest)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if other.requires_grad:
            torch.testing.assert_close(mine.grad, other.grad)
        else:
            assert mine.grad is None


def test_what_is_done_to_all_is_done_to_each() -> None:
    model = make()
    gradients = Gradients(model)
    assert gradients.flat.shape == (5 * 4 + 4 * 3 + 3,)
    gradients.flat.copy_(torch.arange(35.0))
    assert torch.equal(model[2].bias.grad, torch.tensor([32.0, 33.0, 34.0]))
    assert model[0].weight.grad.shape == (4, 5)


def test_what_is_no_longer_trained_keeps_no_gradient() -> None:
    model = make()
    Gradients(model)
    model(torch.ones(1, 5)).sum().backward()
    model[0].weight.requires_grad_(False)
    gradients = Gradients(model)
    assert model[0].weight.grad is None
    assert gradients.flat.shape == (4 * 3 + 3,)


def test_what_is_not_reached_has_a_gradient_of_zero() -> None:
    model = make()
    gradients = Gradients(model)
    model[0](torch.ones(1, 5)).sum().backward()
    gradients.clip(1.0)
    assert (model[2].weight.grad == 0).all()
    gradients.zero()
    gradients.clip(1.0)  # nothing to shrink, and nothing to divide by
    assert (gradients.flat == 0).all()
