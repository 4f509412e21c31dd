import pytest
import torch

from models.traffic import cuda
from models.traffic.selective_scan import scan_reference, selective_scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("length", [1, 16, 37])
@pytest.mark.parametrize("resets", [False, True])
def test_the_kernels_give_the_sequential_outputs_and_gradients(length, resets):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows, channels, states = 3, 70, 5
    inputs = {
        "u": normal(rows, length, channels),
        "delta": normal(rows, length, channels),
        "A": -normal(channels, states).exp(),
        "B": normal(rows, length, states),
        "C": normal(rows, length, states),
        "D": normal(channels),
        "z": normal(rows, length, channels),
        "delta_bias": normal(channels),
        "h0": normal(rows, states, channels),
    }
    reset = torch.rand(rows, length, generator=generator) < 0.3 if resets else None
    results = []
    for dtype, device in ((torch.float32, "cuda"), (torch.float64, "cpu")):
        leaves = {n: v.to(device, dtype, copy=True).requires_grad_() for n, v in inputs.items()}
        where = None if reset is None else reset.to(device)
        if device == "cuda":
            assert cuda.supports(leaves["u"])
            y, last = selective_scan(**leaves, reset=where, return_last_state=True)
        else:
            y, last = scan_reference(**leaves, reset=where)
        loss = y.square().sum() + last.sum()
        results.append([y, last, *torch.autograd.grad(loss, list(leaves.values()))])
    for found, expected in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found.double().cpu(), expected, atol=1e-4 * scale, rtol=0)
