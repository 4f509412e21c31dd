import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.traffic.selective_scan import scan_reference, selective_scan


def draw(seed, *, rows, length, channels, states, resets=False, dtype=torch.float64):
    """Inputs of a scan, by name; every tensor that has a gradient asks for it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "u": normal(rows, length, channels),
        "delta": normal(rows, length, channels),
        "A": -torch.exp(normal(channels, states)),
        "B": normal(rows, length, states),
        "C": normal(rows, length, states),
        "D": normal(channels),
        "z": normal(rows, length, channels),
        "delta_bias": normal(channels),
        "h0": normal(rows, states, channels),
    }
    inputs = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    if resets:
        inputs["reset"] = torch.rand(rows, length, generator=generator) < 0.3
    return inputs


def with_gradients(scan, inputs):
    """Outputs, and the gradients of a fixed function of them."""
    y, last = scan(**inputs)
    leaves = {name: value for name, value in inputs.items() if value.requires_grad}
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() + last.sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"y": y, "last": last, **dict(zip(leaves, gradients, strict=True))}


def doubled(inputs):
    return {
        name: value if value.dtype == torch.bool else value.detach().double().requires_grad_()
        for name, value in inputs.items()
    }


SHAPES = {
    "rows": st.integers(1, 3),
    "length": st.integers(1, 40),
    "channels": st.sampled_from([1, 5, 16, 144]),  # multiples of 16 are the compiled kernels
    "states": st.integers(1, 4),
    "resets": st.booleans(),
    "seed": st.integers(0, 2**16),
}


@settings(deadline=None, max_examples=25)
@given(**SHAPES)
def test_every_path_gives_the_sequential_outputs_and_gradients(seed, **shape):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        inputs = draw(seed, dtype=dtype, **shape)
        found = with_gradients(
            lambda **given: selective_scan(**given, return_last_state=True), inputs
        )
        expected = with_gradients(scan_reference, doubled(inputs))
        for name, value in expected.items():
            scale = max(value.abs().max().item(), 1.0)
            torch.testing.assert_close(
                found[name].double(), value, atol=tolerance * scale, rtol=0, msg=name
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_packed_row_gives_what_its_flows_give_alone(dtype):
    inputs = draw(3, rows=1, length=23, channels=6, states=4, dtype=dtype)
    del inputs["h0"]
    reset = torch.zeros(1, 23, dtype=torch.bool)
    starts = [0, 1, 9, 20]
    reset[0, starts] = True
    packed = selective_scan(**inputs, reset=reset)
    for begin, end in zip(starts, [*starts[1:], 23], strict=True):
        alone = {n: v[:, begin:end] if v.dim() == 3 else v for n, v in inputs.items()}
        torch.testing.assert_close(
            selective_scan(**alone), packed[:, begin:end], atol=1e-5, rtol=1e-5
        )
