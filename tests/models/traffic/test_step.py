import pytest
import torch

from models.traffic.embedding import EmbeddingConfig, FlowEmbedding, FlowTensors
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


@pytest.mark.parametrize("fields", [0, 3, 12])
def test_a_fused_token_is_that_of_its_parts(fields):
    torch.manual_seed(0)
    embedding = FlowEmbedding(EmbeddingConfig(packets=6, fields=fields), d_model=48)
    size = torch.tensor([1, 40, 1500, 1501, 65535] * 20)[:, None]
    flows = FlowTensors(
        kept=torch.ones(100, dtype=torch.int32),
        size=size,
        direction=torch.randint(0, 2, (100, 1), dtype=torch.int8) * 2 - 1,
        gap_s=torch.rand(100, 1) ** 9 * (torch.rand(100, 1) > 0.2),
        fields=torch.randint(0, 65536, (100, 1, fields), dtype=torch.int32),
        octets=torch.zeros(100, 0, 0, dtype=torch.uint8),
    )
    place = torch.arange(100) % 6
    with torch.inference_mode():
        fused = embedding.next_packet(flows, place).values
        parts = embedding.next_token_by_parts(flows) + embedding.position[place][:, None]
        if fields:
            with pytest.raises(ValueError, match=f"{fields - 1} fields, {fields} are read"):
                embedding.next_packet(flows._replace(fields=flows.fields[..., 1:]), place)
    torch.testing.assert_close(fused, parts, atol=1e-5, rtol=1e-5)
