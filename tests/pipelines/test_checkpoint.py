from pathlib import Path

import pytest
import torch

from pipelines.checkpoint import Checkpoint, epoch_generator


def make(seed: int):
    torch.manual_seed(seed)
    module = torch.nn.Linear(3, 2)
    return module, torch.optim.Adam(module.parameters(), lr=0.1)


def step(module, optimizer, epoch: int) -> None:
    x = torch.randn(8, 3, generator=epoch_generator(0, epoch))
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path):
    whole, optimizer = make(0)
    for epoch in range(4):
        step(whole, optimizer, epoch)

    killed, optimizer = make(0)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", key="k")
    for epoch in range(2):
        step(killed, optimizer, epoch)
        checkpoint.save(killed, optimizer, epoch=epoch + 1)

    resumed, optimizer = make(1)
    assert checkpoint.resume(resumed, optimizer) == 2
    for epoch in range(2, 4):
        step(resumed, optimizer, epoch)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("damage", ["other key", "torn", "absent", "discarded"])
def test_a_checkpoint_that_does_not_belong_is_ignored(tmp_path: Path, damage: str):
    path = tmp_path / "run.safetensors"
    module, optimizer = make(0)
    if damage != "absent":
        Checkpoint(path, key="k").save(module, optimizer, epoch=3)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:40])
    if damage == "discarded":
        Checkpoint(path, key="k").discard()
    key = "another" if damage == "other key" else "k"
    fresh, optimizer = make(1)
    before = fresh.weight.clone()
    assert Checkpoint(path, key=key).resume(fresh, optimizer) == 0
    assert torch.equal(fresh.weight, before)
