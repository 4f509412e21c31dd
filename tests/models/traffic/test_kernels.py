import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.traffic.causal_conv import causal_conv, conv_by_taps
from models.traffic.cpu import supports
from models.traffic.cpu.norm import fused_norm
from models.traffic.cpu.scan import fused_scan
from models.traffic.cpu.workers import share
from models.traffic.encoder import AT_ONCE, EncoderConfig, TrafficEncoder
from models.traffic.selective_scan import scan_reference, selective_scan


def test_a_result_does_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 3):  # fewer rows than threads: channels are shared
        u, delta = (torch.randn(rows, 200, 144, generator=generator) for _ in range(2))
        A = -torch.rand(144, 16, generator=generator)
        B, C = (torch.randn(rows, 200, 16, generator=generator) for _ in range(2))
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = [each.clone().requires_grad_() for each in (u, delta, A, B, C)]
            y, _ = fused_scan(*leaves, torch.ones(144))
            found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_parts_cover_all_rows_and_channels_once():
    torch.set_num_threads(3)
    for rows, channels in ((1, 160), (2, 32), (7, 16), (3, 48)):
        done = torch.zeros(rows, channels)
        lock = threading.Lock()

        def part(begin, end, low, high, done=done, lock=lock):
            with lock:
                done[begin:end, low:high] += 1
            return begin, low

        order = share(part, rows, channels, 16, work=10**9)
        assert order == sorted(order)
        assert (done == 1).all()


def test_what_the_kernels_cannot_take_is_left_to_torch():
    x = torch.zeros(1, 1, 32)
    assert supports(x)
    assert supports(x, torch.zeros(3), None)
    for other in (torch.zeros(1, 1, 31), x.double(), torch.zeros(0, 1, 32)):
        assert not supports(other)
    for other in (torch.zeros(3).double(), torch.zeros(3).bfloat16()):
        assert not supports(x, other)


@pytest.mark.parametrize("name", ["D", "z"])
def test_inputs_of_two_dtypes_are_not_read_as_if_they_were_of_one(name):
    generator = torch.Generator().manual_seed(0)
    inputs = {each: torch.randn(2, 9, 32, generator=generator) for each in ("u", "delta", "z")}
    inputs |= {each: torch.randn(2, 9, 4, generator=generator) for each in ("B", "C")}
    inputs |= {"A": -torch.rand(32, 4, generator=generator), "D": torch.ones(32)}
    wanted, _ = scan_reference(**inputs)
    with torch.no_grad():
        found = selective_scan(**inputs | {name: inputs[name].double()})
    torch.testing.assert_close(found.float(), wanted, atol=1e-4, rtol=1e-4)
    weight, bias = torch.ones(32, 4), torch.zeros(32)
    wanted = conv_by_taps(inputs["u"], weight, bias)
    found = causal_conv(inputs["u"], weight, bias.double())
    torch.testing.assert_close(found.float(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gradients", [True, False])
def test_an_encoder_goes_through_autocast(gradients):
    torch.manual_seed(0)
    encoder = TrafficEncoder(EncoderConfig(d_model=32, layers=2)).eval()
    tokens = torch.randn(3, 6, 32)
    with torch.set_grad_enabled(gradients):
        wanted = encoder.flow(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            whole = encoder.flow(tokens)
            state = encoder.initial_state(3)
            for t in range(6):
                _, state = encoder.step(tokens[:, t], state)
            stepped = encoder.peek(state)
    for found in (whole, stepped):
        torch.testing.assert_close(found.float(), wanted, atol=0.1, rtol=0)


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "h0"])
def test_what_is_no_number_stays_none(name):
    generator = torch.Generator().manual_seed(0)
    inputs = {each: torch.randn(2, 5, 32, generator=generator) for each in ("u", "delta", "z")}
    inputs |= {each: torch.randn(2, 5, 4, generator=generator) for each in ("B", "C")}
    inputs |= {"A": -torch.rand(32, 4, generator=generator), "h0": torch.ones(2, 4, 32)}
    inputs |= {"D": torch.ones(32), "delta_bias": torch.ones(32)}
    inputs[name].view(-1)[3] = torch.nan
    for softplus in (True, False):
        wanted, state = scan_reference(**inputs, delta_softplus=softplus)
        found, last = selective_scan(**inputs, delta_softplus=softplus, return_last_state=True)
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(last.isnan(), state.isnan())
    assert wanted.isnan().any() | state.isnan().any()


@settings(deadline=None)
@given(
    rows=st.integers(1, 5), blocks=st.integers(1, 4), scale=st.floats(0, 1e3),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_the_norm_is_that_of_torch(rows, blocks, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, 16 * blocks, generator=generator) * scale
    weight = torch.randn(16 * blocks, generator=generator)
    wanted = torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps=1e-5)
    torch.testing.assert_close(fused_norm(x, weight, eps=1e-5), wanted, atol=1e-5, rtol=1e-5)
    turned = x.transpose(0, 1)
    torch.testing.assert_close(
        fused_norm(turned, weight, eps=1e-5), wanted.transpose(0, 1), atol=1e-5, rtol=1e-5
    )


@settings(deadline=None)
@given(
    rows=st.integers(1, 3), length=st.integers(1, 40), blocks=st.integers(1, 18),
    gated=st.booleans(), begins=st.booleans(), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_an_output_may_take_its_inputs_memory_and_does_so_only_where_it_is_told_to(
    rows, length, blocks, gated, begins, seed
):
    generator = torch.Generator().manual_seed(seed)
    channels = 16 * blocks
    x, delta, z = (torch.randn(rows, length, channels, generator=generator) for _ in range(3))
    B, C = (torch.randn(rows, length, 5, generator=generator) for _ in range(2))
    A, D = -torch.rand(channels, 5, generator=generator), torch.ones(channels)
    weight, bias = torch.randn(channels, 4, generator=generator), torch.zeros(channels)
    reset = torch.rand(rows, length, generator=generator) < 0.2 if begins else None
    gate = z if gated else None
    convolved = conv_by_taps(x, weight, bias, reset=reset)
    scanned, _ = scan_reference(x, delta, A, B, C, D, gate, reset=reset)
    before = x.clone()
    with torch.no_grad():
        for overwrite in (False, True):
            mine = x.clone()
            y = causal_conv(mine, weight, bias, reset=reset, overwrite_x=overwrite)
            torch.testing.assert_close(y, convolved, atol=1e-5, rtol=1e-4)
            assert torch.equal(mine, y if overwrite else before)
            mine = x.clone()
            y = selective_scan(mine, delta, A, B, C, D, gate, reset=reset, overwrite_u=overwrite)
            torch.testing.assert_close(y, scanned, atol=1e-4, rtol=1e-4)
            assert torch.equal(mine, y if overwrite else before)


def test_many_flows_are_encoded_as_few_are():
    torch.manual_seed(0)
    encoder = TrafficEncoder(EncoderConfig(d_model=64, layers=2)).eval()
    tokens, lengths = torch.randn(700, 10, 64), torch.randint(1, 11, (700,))
    assert tokens[..., 0].numel() * 128 > AT_ONCE
    for given_lengths in (None, lengths):
        whole = encoder.flow(tokens, given_lengths).detach()  # gradients keep them together
        with torch.no_grad():
            torch.testing.assert_close(
                encoder.flow(tokens, given_lengths), whole, atol=1e-5, rtol=1e-4
            )
            none = None if given_lengths is None else given_lengths[:0]
            assert encoder.flow(tokens[:0], none).shape == (0, 64)


def test_without_a_softplus_a_state_that_grows_is_held_and_does_not_turn_over():
    zeros, ones = torch.zeros(1, 1, 16), torch.ones(1, 1, 1)
    y, last = fused_scan(
        zeros, zeros - 200, -torch.ones(16, 1), ones, ones, torch.zeros(16),
        delta_softplus=False, h0=torch.ones(1, 1, 16),
    )  # fmt: skip
    assert (y >= 2.0**125).all()
    assert (last >= 2.0**125).all()
