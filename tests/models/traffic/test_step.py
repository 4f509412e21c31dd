import pytest
import torch

from models.traffic.encoder import EncoderConfig, EncoderState, TrafficEncoder


def encoder(**shape):
    torch.manual_seed(0)
    found = TrafficEncoder(EncoderConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return found


@pytest.mark.parametrize(
    "shape",
    [
        {"d_model": 64, "layers": 2},
        {"d_model": 48, "layers": 3, "d_state": 5, "taps": 2, "expand": 1},
        {"d_model": 16, "layers": 1, "d_state": 1, "taps": 1, "expand": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_fused_step_gives_what_its_parts_give(shape, threads):
    torch.set_num_threads(threads)
    network = encoder(**shape)
    flows = 700 if threads > 1 else 7
    fused, parts = network.initial_state(flows), list(network.initial_state(flows).layers)
    with torch.inference_mode():
        for _ in range(4):
            token = torch.randn(flows, shape["d_model"]) * 3
            out, fused = network.step(token, fused)
            for layer, block in enumerate(network.blocks):
                token, parts[layer] = block.step_by_parts(token, parts[layer])
            torch.testing.assert_close(out, network.norm(token), atol=1e-5, rtol=1e-5)
            for mine, theirs in zip(fused.layers, parts, strict=True):
                torch.testing.assert_close(mine.conv, theirs.conv, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(mine.scan, theirs.scan, atol=1e-5, rtol=1e-5)


def test_a_fused_step_leaves_the_state_before_it_alone():
    network = encoder(d_model=32, layers=2)
    with torch.inference_mode():
        _, state = network.step(torch.randn(3, 32), network.initial_state(3))
        kept = state.gather(torch.arange(3))
        network.step(torch.randn(3, 32), state)
        network.peek(state)
    for mine, theirs in zip(state.layers, kept.layers, strict=True):
        assert torch.equal(mine.conv, theirs.conv)
        assert torch.equal(mine.scan, theirs.scan)


def test_a_step_that_is_learned_from_is_not_fused():
    network = encoder(d_model=32, layers=1)
    _, state = network.step(torch.randn(3, 32), network.initial_state(3))
    out, _ = network.step(torch.randn(3, 32), state)
    out.square().sum().backward()
    assert network.blocks[0].mixer.A_log.grad.abs().sum() > 0


def test_odd_widths_step_by_parts():
    network = encoder(d_model=24, layers=1)
    with torch.inference_mode():
        out, state = network.step(torch.randn(3, 24), network.initial_state(3))
    assert isinstance(state, EncoderState)
    assert out.shape == (3, 24)
