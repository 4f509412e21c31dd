import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.traffic.causal_conv import causal_conv, conv_by_taps, conv_step
from models.traffic.mixers import MixerKind, build_mixer
from models.traffic.ssd import ssd_scan, ssd_step

CHANNELS = st.sampled_from([1, 5, 16, 48])  # multiples of 16 are the compiled kernels


def mixer(kind, d_model=12):
    torch.manual_seed(1)
    return build_mixer(kind, d_model, expand=2, d_state=4, taps=4).double()


@pytest.mark.parametrize("kind", list(MixerKind))
def test_steps_give_what_the_sequence_gives(kind):
    mix = mixer(kind)
    x = torch.randn(3, 70, 12, dtype=torch.float64)
    state, outputs = mix.initial_state(3), []
    for t in range(70):
        y, state = mix.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), mix(x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", list(MixerKind))
def test_flows_in_one_row_do_not_see_each_other(kind):
    mix = mixer(kind)
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    starts = [0, 1, 3, 6, 71]
    reset = torch.zeros(2, 90, dtype=torch.bool)
    reset[:, starts] = True
    packed = mix(x, reset)
    for begin, end in zip(starts, [*starts[1:], 90], strict=True):
        torch.testing.assert_close(mix(x[:, begin:end]), packed[:, begin:end], atol=1e-10, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 12), CHANNELS, st.integers(1, 4), st.booleans())
def test_the_convolution_is_the_sum_that_it_says(rows, length, channels, taps, resets):
    generator = torch.Generator().manual_seed(rows * 100 + length)
    x = torch.randn(rows, length, channels, generator=generator)
    weight = torch.randn(channels, taps, generator=generator)
    bias = torch.randn(channels, generator=generator)
    reset = torch.rand(rows, length, generator=generator) < (0.3 if resets else 0)
    found = causal_conv(x, weight, bias, reset=reset if resets else None)
    for row in range(rows):
        state = torch.zeros(1, taps - 1, channels)
        for t in range(length):
            if reset[row, t]:
                state = torch.zeros_like(state)
            y, state = conv_step(x[row, t, None], weight, bias, state=state)
            torch.testing.assert_close(found[row, t, None], y, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 2), st.integers(1, 140), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_chunks_of_the_dual_form_join_to_the_recurrence(rows, length, heads, states, resets):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, step = normal(rows, length, heads, 3), normal(rows, length, heads).exp()
    A, D = -normal(heads).exp(), normal(heads)
    B, C = normal(rows, length, states), normal(rows, length, states)
    first = normal(rows, heads, states, 3)
    reset = torch.rand(rows, length, generator=generator) < (0.1 if resets else 0)
    found, last = ssd_scan(x, step, A, B, C, D, state=first, reset=reset if resets else None)
    state = first
    for t in range(length):
        state = state * ~reset[:, t, None, None, None]
        y, state = ssd_step(x[:, t], step[:, t], A, B[:, t], C[:, t], D, state=state)
        torch.testing.assert_close(found[:, t], y, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(last, state, atol=1e-9, rtol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 12), st.sampled_from([16, 48]), st.integers(1, 4))
def test_gradients_of_the_compiled_convolution(rows, length, channels, taps):
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(rows, length, channels, generator=generator)
    weight = torch.randn(channels, taps, generator=generator)
    inputs = [x, weight, torch.randn(channels, generator=generator)]
    reset = torch.rand(rows, length, generator=generator) < 0.3
    gradients = []
    for convolve, dtype in ((causal_conv, torch.float32), (conv_by_taps, torch.float64)):
        leaves = [each.to(dtype, copy=True).requires_grad_() for each in inputs]
        loss = (convolve(*leaves, reset=reset) * x).sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
