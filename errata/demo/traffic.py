"""Make traffic, train on it, then classify fresh traffic while it passes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from errata import __version__
from errata.demo.applications import running_applications, talk
from errata.demo.recording import Background, Proxies, Recording, Server
from errata.settings import Settings
from feature_store.editions.traffic import MODEL_NAME, UNKNOWN
from feature_store.registry import Registry
from feature_store.traffic.capture import (
    InterfaceUnavailableError,
    PacketBatch,
    open_interface,
)
from pipelines.progress import Reporter
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.pipeline import read, run
from services.classify.clock import WallClock
from services.classify.loading import load_served
from services.classify.sinks import LiveTable
from services.classify.source import POLL_S, Source
from services.classify.stream import StreamClassifier, classify
from services.classify.verdict import Verdict

LOOPBACK = "lo"


@dataclass(frozen=True)
class Play:
    """How much traffic is made.

    Attributes:
        recordings: that are trained on; the later ones are held out to test.
        recording_s: seconds of each.
        live_s: seconds of fresh traffic that is classified as it passes.
    """

    recordings: int = 5
    recording_s: float = 4.0
    live_s: float = 12.0


def small_config() -> TrafficConfig:
    """A model that trains within a minute or two on two cores."""
    return TrafficConfig().changed(
        **{
            "network.encoder.d_model": 32,
            "network.encoder.layers": 2,
            "network.epochs": 8,
            "pretraining.enabled": False,
            "tree.rounds": 40,
            "evaluation.baselines": ("majority", "knn"),
            "evaluation.resamples": 0,
        }
    )


def run_traffic_demo(
    settings: Settings,
    config: TrafficConfig,
    *,
    play: Play,
    data: Path | None,
    reporter: Reporter,
    console: Console,
) -> dict[str, int]:
    """Run the demo; returns how many fresh flows were given their class, another, or `unknown`.

    What an earlier run made is used again: recordings, and a version that was trained on them with
    the same settings.

    Args:
        settings: `Settings.of_demo`: a home and a registry apart from the user's data.
        config: of the training.
        play: how much traffic is made.
        data: labelled captures to train on; None is traffic that is made here.
        reporter: progress.
        console: where results go.
    """
    home = settings.home / "traffic"
    how = _how_packets_are_had(reporter)
    if data is None:
        data = _recordings(home, play, live=how, reporter=reporter)
    version = _version(data, config, settings, reporter=reporter, console=console)
    registry = Registry(settings.registry)
    torch.set_num_threads(1)  # a micro-batch is small: threads would wait for each other
    classifier = StreamClassifier(load_served(registry, version), clock=WallClock())
    found: Counter[str] = Counter()
    confused: Counter[tuple[str, str]] = Counter()

    def judge(verdicts: list[Verdict], classes: dict[Server, str]) -> None:
        for verdict in verdicts:
            truth = classes.get((verdict.flow.protocol, verdict.flow.destination_port))
            if verdict.final and truth is not None:
                right = verdict.label == truth
                outcome = "right" if right else "unknown" if verdict.label == UNKNOWN else "wrong"
                found[outcome] += 1
                confused[truth, verdict.label] += not right

    reporter.say(f"classifying {play.live_s:g} s of fresh traffic as it passes")
    with (
        LiveTable(
            classifier.counts,
            console,
            title="fresh traffic, as it passes",
            pending=lambda: f"{len(classifier.meter.table):,} running",
        ) as table,
        _traffic(home, seconds=play.live_s, seed=1_000, live=how) as (packets, classes),
    ):
        for verdicts in classify(Source(packets, WallClock(), LOOPBACK), classifier):
            table.write(verdicts)
            judge(verdicts, classes)
        table.close()
    _show(found, confused, console)
    return dict(found)


def _how_packets_are_had(reporter: Reporter) -> bool:
    """Whether the interface may be captured; says so."""
    try:
        open_interface(LOOPBACK).close()
    except InterfaceUnavailableError as error:
        reporter.say(f"packets are written down by proxies before the servers ({error})")
        return False
    reporter.say(f"packets are captured live from the interface {LOOPBACK}")
    return True


def _recordings(home: Path, play: Play, *, live: bool, reporter: Reporter) -> Path:
    directory = home / ("captures" if live else "proxied")
    for number in range(play.recordings):
        done = directory / f"{number}.done"
        if done.exists():
            continue
        reporter.say(
            f"making traffic, recording {number + 1} of {play.recordings} ({play.recording_s:g} s)"
        )
        with _traffic(home, seconds=play.recording_s, seed=number, live=live) as (packets, classes):
            recording = Recording(directory / "classes", str(number), classes)
            for batch in packets:
                if len(batch):
                    recording.add(batch)
            recording.close()
        done.touch()
    return directory / "classes"


@contextmanager
def _traffic(
    home: Path, *, seconds: float, seed: int, live: bool
) -> Iterator[tuple[Iterator[PacketBatch], dict[Server, str]]]:
    """Packets of all applications while they talk, and each server's class."""
    classes: dict[Server, str] = {}
    up, over = threading.Event(), threading.Event()
    proxies = Proxies()

    async def play() -> int:
        async with running_applications(home) as applications:
            ports = {
                each.name: each.port if live else await proxies.open(each) for each in applications
            }
            classes.update({(each.transport, ports[each.name]): each.name for each in applications})
            up.set()
            done = await talk(applications, ports, seconds=seconds, seed=seed)
            proxies.close()
            await asyncio.sleep(0.1)  # for what is still on its way
            return done

    def work() -> int:
        try:
            return asyncio.run(play())
        finally:
            up.set()
            over.set()

    with _packets(proxies, live=live, stop=over.is_set) as packets:
        background = Background(work)
        background.start()
        up.wait()
        yield packets, classes
        background.outcome()


@contextmanager
def _packets(
    proxies: Proxies, *, live: bool, stop: Callable[[], bool]
) -> Iterator[Iterator[PacketBatch]]:
    if not live:
        yield proxies.batches(stop, poll_s=POLL_S)
        return
    with open_interface(LOOPBACK, stop=stop, poll_s=POLL_S) as ring:
        yield iter(ring)


def _version(
    data: Path,
    config: TrafficConfig,
    settings: Settings,
    *,
    reporter: Reporter,
    console: Console,
) -> str:
    registry = Registry(settings.registry)
    fingerprint, wanted = read(data, config).fingerprint(), config.model_dump(mode="json")
    for manifest in reversed(registry.versions(MODEL_NAME)):
        if (manifest.data_fingerprint, manifest.config) == (fingerprint, wanted):
            reporter.say(f"version {manifest.version} was trained on the same traffic: using it")
            registry.promote(MODEL_NAME, manifest.version, alias="champion")
            return manifest.version
    done = run(
        data,
        config,
        registry=registry,
        runs_directory=settings.home / "runs",
        code_version=__version__,
        reporter=reporter,
    )
    metrics = done.manifest.metrics
    table = Table("macro F1 on held-out recordings", "", title="trained")
    table.add_row("errata", f"{metrics['macro_f1']:.3f}")
    for name, score in metrics["baselines"].items():
        table.add_row(name, f"{score:.3f}")
    console.print(table)
    registry.promote(MODEL_NAME, done.manifest.version, alias="champion")
    return done.manifest.version


def _show(found: Counter[str], confused: Counter[tuple[str, str]], console: Console) -> None:
    total = max(found.total(), 1)
    console.print(
        f"{found['right']:,} of {total:,} fresh flows were given their class "
        f"({found['right'] / total:.1%}), {found['unknown']:,} are unknown, "
        f"{found['wrong']:,} were taken for another class"
    )
    for (truth, label), count in confused.most_common(3):
        if count:
            console.print(f"  {count:,} flows of {truth} were called {label}")
