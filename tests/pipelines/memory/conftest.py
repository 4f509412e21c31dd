"""A published recommender and a published traffic classifier, small and quick."""

from pathlib import Path

import pytest

from feature_store.editions import RecommenderEdition
from feature_store.editions.traffic import TrafficEdition
from feature_store.registry import Manifest, Registry
from feature_store.traffic.flows import FlowSettings
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.pipeline import make_split
from pipelines.recommender.preparation import prepare
from pipelines.recommender.training import train as train_recommender
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows, read_labelled_flows
from pipelines.traffic.labels import find_captures, find_labels
from pipelines.traffic.split import honest_split
from pipelines.traffic.training import Parts
from pipelines.traffic.training import train as train_traffic
from tests.pipelines.recommender.conftest import make_dataset
from tests.pipelines.traffic.conftest import write_captures

QUICK = {
    "threads": 1,
    "towers.dimension": 8,
    "towers.epochs": 1,
    "graph_network.enabled": False,
    "graph.regularisation": 20.0,
    "split.test_share": 0.3,
}


def published(directory: Path, edition, *, model: str, fingerprint: str, config) -> Manifest:
    staging = directory / "staging"
    staging.mkdir()
    edition.save(staging)
    return Registry(directory / "registry").publish(
        model,
        staging,
        data_fingerprint=fingerprint,
        code_version="test",
        config=config.model_dump(mode="json"),
        metrics={},
    )


@pytest.fixture(scope="session")
def recommender(tmp_path_factory) -> tuple:
    """Tables, the edition that was trained on their earlier part, its manifest."""
    dataset = make_dataset()
    config = RecommenderConfig.load(None, QUICK)
    prepared = prepare(dataset)
    split = make_split(prepared, config.split)
    edition: RecommenderEdition = train_recommender(
        prepared, prepared.log.take(split.part != "test"), config
    ).edition
    manifest = published(
        tmp_path_factory.mktemp("recommender"),
        edition,
        model="recommender",
        fingerprint=dataset.fingerprint(),
        config=config,
    )
    return dataset, edition, manifest


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> tuple:
    """Labelled flows, the edition that was trained on their earlier recordings, its manifest."""
    config = TrafficConfig(threads=1).changed(
        **{
            "network.packets": 8,
            "network.encoder.d_model": 24,
            "network.encoder.layers": 1,
            "network.epochs": 2,
            "pretraining.enabled": False,
            "tree.rounds": 10,
        }
    )
    root = write_captures(tmp_path_factory.mktemp("captures"), recordings=4, flows=12)
    data: LabelledFlows = read_labelled_flows(
        find_captures(root),
        find_labels(root),
        root=root,
        settings=FlowSettings(kept_packets=config.network.packets),
    )
    edition: TrafficEdition = train_traffic(
        Parts.of(data, honest_split(data)), data.classes, config
    )
    manifest = published(
        tmp_path_factory.mktemp("traffic"),
        edition,
        model="traffic",
        fingerprint=data.fingerprint(),
        config=config,
    )
    return data, edition, manifest
