from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from feature_store.editions.traffic import UNKNOWN, TrafficEdition
from feature_store.error_memory import KeySpace
from feature_store.registry import Registry
from feature_store.traffic.features import Tier
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows
from pipelines.traffic.evaluation import evaluate, randomise_protected
from pipelines.traffic.pipeline import read, run
from pipelines.traffic.split import honest_split
from pipelines.traffic.training import Parts, train

from .conftest import APPLICATIONS, write_captures, write_recording


@pytest.fixture(scope="module")
def parts(labelled: LabelledFlows) -> Parts:
    return Parts.of(labelled, honest_split(labelled))


@pytest.fixture(scope="module")
def edition(parts: Parts, labelled: LabelledFlows, small: TrafficConfig) -> TrafficEdition:
    return train(parts, labelled.classes, small)


def test_later_recordings_are_classified(edition: TrafficEdition, parts: Parts) -> None:
    found = edition.classify(parts.test.flows).probability
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found.argmax(axis=1) == parts.test.label).mean() > 0.9


def test_the_network_alone_has_learned_too(edition: TrafficEdition, parts: Parts) -> None:
    alone = edition.with_say(network_weight=1, forest_share=0)
    found = alone.classify(parts.test.flows).probability
    assert (found.argmax(axis=1) == parts.test.label).mean() > 0.8


def test_each_kind_of_trees_alone_has_learned_too(edition: TrafficEdition, parts: Parts) -> None:
    for share in (0.0, 1.0):
        alone = edition.with_say(network_weight=0, forest_share=share)
        found = alone.probability(parts.test.flows)
        assert (found.argmax(axis=1) == parts.test.label).mean() > 0.8


def test_a_flow_is_classified_from_what_is_there_of_it(
    edition: TrafficEdition, parts: Parts
) -> None:
    """In any company, and after its first packet."""
    flows = parts.test.flows
    together = edition.classify(flows.cut(1))
    alone = edition.classify(flows[np.array([3])].cut(1))
    np.testing.assert_allclose(together.probability[3], alone.probability[0], atol=1e-5)
    np.testing.assert_allclose(together.hidden[3], alone.hidden[0], atol=1e-5)


def test_the_same_seed_gives_the_same_model(
    edition: TrafficEdition, parts: Parts, labelled: LabelledFlows, small: TrafficConfig
) -> None:
    again = train(parts, labelled.classes, small)
    assert again.decision == edition.decision
    np.testing.assert_array_equal(
        again.classify(parts.test.flows).probability,
        edition.classify(parts.test.flows).probability,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"tier": Tier.T2, "network.byte_packets": 2, "tree.enabled": False},
        {"network.encoder.mixer": "mamba2"},
    ],
)
def test_two_threads_give_the_same_model_again(
    parts: Parts, labelled: LabelledFlows, small: TrafficConfig, changes: dict[str, Any]
) -> None:
    """At sizes where threads share a step's work."""
    config = small.changed(
        **{
            "threads": 2,
            "network.encoder.d_model": 64,
            "network.epochs": 2,
            "tree.rounds": 5,
            "forest.trees": 10,
            **changes,
        }
    )
    first, second = (_tensors(train(parts, labelled.classes, config)) for _ in range(2))
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values, err_msg=name)


def _tensors(edition: TrafficEdition) -> dict[str, Any]:
    """Every array of an edition, by name; the trees as LightGBM writes them."""
    found: dict[str, Any] = {
        name: each.numpy() for name, each in edition.network.state_dict().items()
    }
    if edition.tree is not None:
        found["tree"] = edition.tree.model_to_string()
    if edition.forest is not None:
        found |= vars(edition.forest)
    return found | {"decision": edition.decision.model_dump_json()} | vars(edition.keys)


def test_an_edition_that_was_saved_answers_as_before(
    edition: TrafficEdition, parts: Parts, tmp_path: Path
) -> None:
    edition.save(tmp_path)
    loaded = TrafficEdition.load(tmp_path)
    assert loaded.classes == edition.classes
    np.testing.assert_allclose(
        loaded.classify(parts.test.flows).probability,
        edition.classify(parts.test.flows).probability,
        atol=1e-6,
    )


def test_files_that_are_no_edition_are_refused_in_one_line(
    edition: TrafficEdition, tmp_path: Path
) -> None:
    def not_a_number(network: Path) -> None:
        weights = load_file(network)
        next(iter(weights.values())).view(-1)[0] = torch.nan
        save_file(weights, network)

    def of_another_shape(network: Path) -> None:
        save_file({name: each[:1] for name, each in load_file(network).items()}, network)

    def cut(file: Path) -> None:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])

    for number, (name, spoil) in enumerate(
        [
            ("network.safetensors", not_a_number),
            ("network.safetensors", of_another_shape),
            ("network.safetensors", cut),
            ("keys.safetensors", cut),
            ("tree.txt", cut),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        edition.save(folder)
        spoil(folder / name)
        with pytest.raises(ValueError, match="no traffic edition") as refused:
            TrafficEdition.load(folder)
        assert "\n" not in str(refused.value)


def test_an_error_is_remembered_under_verdict_and_hidden_vector(
    edition: TrafficEdition, parts: Parts, tmp_path: Path
) -> None:
    found = edition.classify(parts.training.flows)
    keys = edition.memory_keys(found.probability, found.hidden)
    assert (keys**2).sum(axis=1).mean() == pytest.approx(1, rel=1e-3)
    other = np.roll(found.probability, 1, axis=1)
    assert not np.allclose(edition.memory_keys(other, found.hidden), keys)
    edition.save(tmp_path)
    loaded = TrafficEdition.load(tmp_path)
    np.testing.assert_array_equal(loaded.memory_keys(found.probability, found.hidden), keys)


def test_an_edition_of_an_earlier_release_remembers_under_its_hidden_vector(
    edition: TrafficEdition, parts: Parts
) -> None:
    found = edition.classify(parts.test.flows)
    width = found.hidden.shape[1]
    earlier = replace(edition, keys=KeySpace.fit(found.hidden))
    assert earlier.memory_keys(found.probability, found.hidden).shape == (
        len(parts.test.label),
        width,
    )


def test_a_verdict_below_the_threshold_is_unknown(edition: TrafficEdition) -> None:
    strict = replace(edition, decision=edition.decision.model_copy(update={"unknown_below": 0.9}))
    probability = np.array([[0.95, 0.03, 0.02], [0.5, 0.3, 0.2]], np.float32)
    assert strict.names(probability) == [edition.classes[0], UNKNOWN]


def test_no_flows_no_verdicts(edition: TrafficEdition, parts: Parts) -> None:
    found = edition.classify(parts.test.flows[np.zeros(0, np.int64)])
    assert found.probability.shape == (0, 3)
    assert found.hidden.shape[0] == 0


def test_protected_fields_change_no_verdict_below_t2(edition: TrafficEdition, parts: Parts) -> None:
    probed = randomise_protected(parts.test.flows, np.random.default_rng(0))
    assert (probed.raw != parts.test.flows.raw).any()
    assert (probed.flow["src_port"] != parts.test.flows.flow["src_port"]).any()
    np.testing.assert_array_equal(
        edition.classify(probed).probability, edition.classify(parts.test.flows).probability
    )


def test_a_model_of_raw_bytes_is_moved_by_protected_fields(
    parts: Parts, labelled: LabelledFlows, small: TrafficConfig
) -> None:
    raw = small.changed(**{"tier": Tier.T2, "network.byte_packets": 1, "tree.enabled": False})
    edition = train(parts, labelled.classes, raw.changed(**{"network.epochs": 2}))
    probed = randomise_protected(parts.test.flows, np.random.default_rng(0))
    moved = edition.classify(probed).probability - edition.classify(parts.test.flows).probability
    assert np.abs(moved).max() > 0


def test_the_protocol_scores_every_model_on_the_same_flows(
    edition: TrafficEdition, parts: Parts, small: TrafficConfig
) -> None:
    config = small.changed(**{"evaluation.left_out_share": 0.34})
    found = evaluate(edition, parts, config, seed=0, baseline_tiers=(Tier.T1,))
    scores = found.scores["T1"]
    assert set(scores) == {
        "errata", "network", "tree", "forest",
        "majority", "port_rule", "knn", "random_forest", "lightgbm",
    }  # fmt: skip
    assert scores["errata"].macro_f1 > scores["majority"].macro_f1
    # Video and chat share port 443 over TCP.
    assert scores["port_rule"].macro_f1 < 0.9
    assert scores["errata"].gain_ci is None
    assert scores["majority"].gain_ci is not None
    assert scores["majority"].gain_ci[0] > 0
    assert found.by_packets[10] >= found.by_packets[1] - 0.05
    assert scores["errata"].leak_drop == 0
    assert scores["port_rule"].leak_drop > 1
    assert all(each.auroc_unknown is not None for name, each in scores.items() if name != "network")
    assert scores["majority"].auroc_unknown == 0.5
    assert scores["errata"].capture_vote == 1


def test_a_run_publishes_an_edition_with_its_card(
    captures: Path, small: TrafficConfig, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    done = run(
        captures, small, registry=registry, runs_directory=tmp_path / "runs", code_version="1"
    )
    directory, manifest = registry.open("traffic", done.manifest.version)
    assert TrafficEdition.load(directory).classes == ("chat", "lookup", "video")
    card = (directory / "model_card.md").read_text()
    assert "| Errata |" in card
    assert "LightGBM" in card
    assert manifest.metrics["macro_f1"] > 0.8
    assert manifest.metrics["baselines"]["lightgbm"] > 0


def test_one_class_is_too_few_and_the_error_says_how_to_label(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.pcap", APPLICATIONS["chat"], flows=12, begin_s=1e9, seed=1)
    with pytest.raises(ValueError, match="a classifier needs two"):
        read(tmp_path, TrafficConfig())


def test_a_class_with_few_flows_pretrains_only(tmp_path: Path) -> None:
    write_captures(tmp_path, recordings=2, flows=6)
    write_recording(tmp_path / "rare" / "0.pcap", APPLICATIONS["chat"], flows=3, begin_s=1, seed=9)
    data = read(tmp_path, TrafficConfig())
    assert "rare" not in data.classes
    assert (data.label < 0).sum() == 3


def test_flows_read_with_other_packets_are_refused_before_training(
    parts: Parts, labelled: LabelledFlows, small: TrafficConfig
) -> None:
    with pytest.raises(ValueError, match=r"read with 8 packets each and network.packets is 9"):
        train(parts, labelled.classes, small.changed(**{"network.packets": 9}))
