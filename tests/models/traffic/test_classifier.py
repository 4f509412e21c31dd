import itertools

import pytest
import torch
from pydantic import ValidationError

from models.traffic.classifier import TrafficClassifier
from models.traffic.embedding import EmbeddingConfig, FlowEmbedding
from models.traffic.encoder import EncoderConfig, EncoderState, TrafficEncoder
from models.traffic.layer_decay import parameter_groups
from models.traffic.mixers import MixerKind

LAYOUTS = {
    "packets": EmbeddingConfig(packets=5, fields=3),
    "bytes": EmbeddingConfig(packets=0, byte_packets=2, packet_bytes=8),
    "both": EmbeddingConfig(packets=5, fields=2, byte_packets=2, packet_bytes=8),
    "no positions": EmbeddingConfig(packets=5, positions=False),
}


def classifier(layout="packets", mixer=MixerKind.MAMBA1, seed=0):
    torch.manual_seed(seed)
    config = EncoderConfig(d_model=16, layers=2, mixer=mixer, d_state=4)
    embedding = FlowEmbedding(LAYOUTS[layout], config.d_model)
    return TrafficClassifier(embedding, TrafficEncoder(config), classes=3).eval()


def one_packet(flows, place):
    """The columns of each flow's `place`-th packet."""
    octets = flows.octets[:, min(place, 1)][:, None]
    return flows._replace(
        size=flows.size[:, place, None],
        direction=flows.direction[:, place, None],
        gap_s=flows.gap_s[:, place, None],
        fields=flows.fields[:, place, None],
        octets=octets,
    )


@pytest.mark.parametrize(("layout", "mixer"), list(itertools.product(LAYOUTS, MixerKind)))
@torch.no_grad()
def test_packet_by_packet_gives_the_same_verdicts_as_whole_flows(flows, layout, mixer):
    model = classifier(layout, mixer)
    whole = flows([6, 6, 6])
    state = model.initial_state(3)
    for place in range(6):
        state = model.step(one_packet(whole, place), torch.full((3,), place), state)
        expected = model(whole._replace(kept=torch.full((3,), place + 1)))
        found = model.peek(state)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.hidden, expected.hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_flows_at_different_places_step_together(flows, layout):
    model = classifier(layout)
    whole = flows([6, 6])
    ahead = model.initial_state(2)
    for place in range(2):
        ahead = model.step(one_packet(whole, place), torch.full((2,), place), ahead)
    mixed = EncoderState.stack(
        [ahead.gather(torch.tensor([0])), model.initial_state(1)]
    )  # flow 0 has had two packets, flow 1 none
    third, first = one_packet(whole, 2), one_packet(whole, 0)
    packets = type(whole)(*(torch.stack([a[0], b[1]]) for a, b in zip(third, first, strict=True)))
    logits = model.peek(model.step(packets, torch.tensor([2, 0]), mixed)).logits
    expected = model(whole._replace(kept=torch.tensor([3, 1]))).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_verdict_does_not_depend_on_the_rest_of_the_batch(flows):
    model = classifier("both")
    together = flows([1, 6, 3, 0])
    for row in range(4):
        alone = model(together.gather(torch.tensor([row])))
        torch.testing.assert_close(alone.logits[0], model(together).logits[row], atol=1e-6, rtol=0)


@torch.no_grad()
def test_what_lies_behind_a_flows_end_is_not_seen(flows):
    model = classifier("both")
    clean, dirty = flows([2, 3]), flows([6, 6])
    later = torch.arange(6) >= clean.kept[:, None]
    dirty = dirty._replace(
        kept=clean.kept,
        size=torch.where(later, dirty.size, clean.size),
        direction=torch.where(later, dirty.direction, clean.direction),
        gap_s=torch.where(later, dirty.gap_s, clean.gap_s),
        fields=torch.where(later[..., None], dirty.fields.int(), clean.fields.int()),
        octets=clean.octets,
    )
    torch.testing.assert_close(model(dirty).logits, model(clean).logits, atol=1e-6, rtol=0)


def test_peeking_leaves_the_state_alone(flows):
    model = classifier()
    state = model.step(one_packet(flows([6]), 0), torch.tensor([0]), model.initial_state(1))
    before = [layer.scan.clone() for layer in state.layers]
    model.peek(state)
    for layer, scan in zip(state.layers, before, strict=True):
        assert torch.equal(layer.scan, scan)


def test_states_of_some_flows_can_be_put_into_a_table():
    table = TrafficEncoder(EncoderConfig(d_model=8, layers=2)).initial_state(5)
    ones = EncoderState(
        tuple(type(layer)(layer.conv[:2] + 1, layer.scan[:2] + 1) for layer in table.layers)
    )
    table.put(torch.tensor([4, 1]), ones)
    assert table.layers[1].scan[:, 0, 0].tolist() == [0, 1, 0, 0, 1]
    assert table.gather(torch.tensor([1, 0])).layers[0].conv[:, 0, 0].tolist() == [1, 0]


@pytest.mark.parametrize("mixer", list(MixerKind))
def test_it_learns_to_tell_sizes_apart(flows, mixer):
    model = classifier(mixer=mixer).train()
    data = flows([6] * 32)
    labels = (data.size[:, 2] > 750).long()
    optimiser = torch.optim.AdamW(
        parameter_groups(model, learning_rate=1e-2, weight_decay=0.01, layer_decay=0.9)
    )
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(data).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (model.eval()(data).logits.argmax(-1) == labels).float().mean() > 0.95


def test_every_parameter_is_in_one_group_and_lower_layers_learn_slower():
    model = classifier("both")
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rate[id(model.head.weight)] == 1.0
    assert rate[id(model.encoder.blocks[1].mixer.D)] == 0.5
    assert rate[id(model.encoder.blocks[0].mixer.D)] == 0.25
    assert rate[id(model.embedding.position)] == 0.125


@pytest.mark.parametrize(
    "wrong",
    [
        {"packets": 0},
        {"packets": 2, "byte_packets": 3},
        {"byte_packets": 1, "packet_bytes": 10},
        {"stirde": 4},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        EmbeddingConfig(**wrong)


def test_flows_that_lack_what_is_read_are_refused(flows):
    embedding = FlowEmbedding(EmbeddingConfig(packets=20), d_model=8)
    with pytest.raises(ValueError, match="6 packets, the embedding reads 20"):
        embedding(flows([3]))
    with pytest.raises(ValueError, match="3 fields, 12 are read"):
        FlowEmbedding(EmbeddingConfig(packets=6, fields=12), d_model=8)(flows([3]))


@pytest.mark.parametrize("mixer", list(MixerKind))
@torch.no_grad()
def test_the_flows_output_alone_is_the_one_beside_the_tokens(mixer):
    encoder = classifier(mixer=mixer).encoder
    tokens = torch.randn(3, 7, 16)
    for given in (None, torch.tensor([7, 7, 6]), torch.tensor([7, 2, 0])):  # the last is packed
        expected = encoder(tokens, given).flow
        torch.testing.assert_close(encoder.flow(tokens, given), expected, atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter(flows):
    model = classifier("both").train()
    model(flows([6, 3])).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("lengths", [[7] * 400, [7, 1] * 200])
def test_a_block_is_left_out_for_whole_flows_at_its_rate(lengths):
    torch.manual_seed(0)
    encoder = TrafficEncoder(EncoderConfig(d_model=16, layers=2, d_state=4, drop_path=0.5))
    seen = []
    encoder.blocks[1].register_forward_hook(
        lambda _, given, output: seen.append((output - given[0]).abs().sum(-1) > 0)
    )
    encoder.train()(torch.randn(400, 7, 16), torch.tensor(lengths))
    kept = seen[0]
    assert (kept.all(1) | ~kept.any(1)).all()
    assert 0.4 < kept[:, 0].float().mean() < 0.6


def test_packed_flows_have_the_gradients_of_padded_ones():
    encoder = classifier().encoder
    tokens, lengths = torch.randn(4, 7, 16), torch.tensor([7, 1, 2, 0])
    parameters = list(encoder.parameters())
    weights, gradients = torch.linspace(-1, 1, 16), []
    for flow in (encoder.flow(tokens, lengths), encoder(tokens, lengths).flow):
        gradients.append(torch.autograd.grad((flow * weights).sum(), parameters))
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)
