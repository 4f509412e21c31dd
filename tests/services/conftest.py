"""A small edition of the traffic classifier, trained once for whoever serves it."""

from pathlib import Path

import pytest

from feature_store.editions.traffic import TrafficEdition
from feature_store.traffic.flows import FlowSettings
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import read_labelled_flows
from pipelines.traffic.labels import find_captures, find_labels
from pipelines.traffic.split import honest_split
from pipelines.traffic.training import Parts, train
from tests.pipelines.traffic.conftest import write_captures


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled captures of three kinds of conversations."""
    return write_captures(tmp_path_factory.mktemp("traffic"), recordings=4, flows=8)


@pytest.fixture(scope="session")
def trained(traffic: Path) -> TrafficEdition:
    config = TrafficConfig(threads=1).changed(
        **{
            "network.packets": 8,
            "network.encoder.d_model": 24,
            "network.encoder.layers": 2,
            "network.epochs": 4,
            "pretraining.enabled": False,
            "tree.rounds": 20,
        }
    )
    data = read_labelled_flows(
        find_captures(traffic),
        find_labels(traffic),
        root=traffic,
        settings=FlowSettings(kept_packets=config.network.packets),
    )
    return train(Parts.of(data, honest_split(data)), data.classes, config)
