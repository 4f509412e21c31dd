import pytest
import torch

from models.traffic.embedding import EmbeddingConfig, FlowEmbedding
from models.traffic.encoder import EncoderConfig, TrafficEncoder
from models.traffic.masked_autoencoder import AutoencoderConfig, MaskedAutoencoder

LAYOUTS = {
    "packets": EmbeddingConfig(packets=5, fields=3),
    "bytes": EmbeddingConfig(packets=0, byte_packets=2, packet_bytes=8),
    "both": EmbeddingConfig(packets=5, fields=2, byte_packets=2, packet_bytes=8),
}


def autoencoder(layout):
    torch.manual_seed(0)
    encoder = TrafficEncoder(EncoderConfig(d_model=16, layers=2, d_state=4))
    embedding = FlowEmbedding(LAYOUTS[layout], 16)
    return MaskedAutoencoder(embedding, encoder, AutoencoderConfig(d_decoder=16))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loss_falls_and_every_parameter_learns(flows, layout):
    model = autoencoder(layout)
    data = flows([6, 5, 3, 2, 1] * 4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(25):
        loss = model(data, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_share_of_each_kind_that_is_hidden():
    model = autoencoder("both")
    there = torch.ones(3, model.embedding.length, dtype=torch.bool)
    hidden = model.embedding.split(model.hide(there, torch.Generator().manual_seed(0)))
    assert hidden.packets.sum(1).tolist() == [2, 2, 2]  # half of 5, rounded down
    assert hidden.strides.sum(1).tolist() == [3, 3, 3]  # .9 of 4, rounded down


def test_what_is_hidden_is_drawn_from_the_generator(flows):
    model = autoencoder("both").eval()
    data = flows([6, 4])
    first, second = (model(data, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_hidden_tokens_do_not_reach_the_encoder(flows):
    model = autoencoder("packets").eval()
    data = flows([6, 6])
    hidden = model.hide(torch.ones(2, 5, dtype=torch.bool), torch.Generator().manual_seed(5))
    changed = data._replace(
        size=torch.where(torch.nn.functional.pad(hidden, (0, 1)), 77, data.size)
    )
    seen = []
    model.encoder.register_forward_hook(lambda _, __, output: seen.append(output.flow))
    for each in (data, changed):
        model(each, torch.Generator().manual_seed(5))
    assert torch.equal(*seen)


def test_a_flow_of_one_packet_hides_nothing_and_loses_nothing(flows):
    model = autoencoder("packets")
    assert model(flows([1, 1])).item() == 0
