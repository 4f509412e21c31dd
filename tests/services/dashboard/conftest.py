"""A service with a catalogue, a few users and the dashboard, and a real browser that looks at it.

`ERRATA_PICTURES=DIR` (set by `make web`) trains on MovieLens-100K and on the demo's traffic, in
place of invented films and conversations, and keeps the pictures in DIR.
"""

import math
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from errata.application import application
from feature_store.editions import RecommenderEdition
from feature_store.editions.traffic import UNKNOWN, TrafficEdition
from feature_store.online import Event, OnlineStore, connect
from feature_store.registry import Registry
from services.access import issue, write_keys
from services.classify.settings import ClassifySettings, Watch
from services.classify.stream import ServedEdition, StreamClassifier
from services.recommend.settings import Limits, ServeSettings
from tests.pipelines.traffic.conftest import APPLICATIONS
from tests.services.classify.conftest import (
    deciding,
    packets_of,
    publish,
    verdicts_of,
    write_mixed,
)
from tests.services.dashboard import pictured
from tests.services.recommend.conftest import make_edition

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PICTURES = os.environ.get("ERRATA_PICTURES")
PATIENT = Limits(deadline_ms=60_000)  # a busy machine is no overload
# What a page shows at once may take its time on a machine that does other things besides.
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"there is no browser on the path: one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """A fresh page at the service, which must not complain."""
    context = browser.new_context(
        viewport={"width": 1360, "height": 860}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    page.goto(url)
    yield page
    context.close()
    assert [each for each in complaints if "Failed to load resource" not in each] == []


@pytest.fixture
def picture(tmp_path: Path):
    folder = Path(PICTURES) if PICTURES else tmp_path
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, *, height: int | None = None) -> None:
        path = folder / f"{name}.png"
        if height is not None:
            page.set_viewport_size({"width": 1360, "height": height})
            page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=path, animations="disabled")
        assert path.stat().st_size > 5_000

    return take


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service at `url` has its registry, and what was published there."""
    if PICTURES:
        return pictured.HOME
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="session")
def url(home: Path, redis_server, trained: TrafficEdition) -> Iterator[str]:
    """The service's address, for the whole session."""
    registry = Registry(home / "registry")
    tenant = "dashboard"
    store = OnlineStore(connect(redis_server.url, timeout_s=5), tenant=tenant)
    if PICTURES:
        pictured.fill(store, pictured.publish_films(registry, home))
        pictured.publish_conversations(registry, home)
    else:
        for number in range(2):
            publish_invented(registry, home / f"staging-{number}", seed=number)
        store.materialise(histories(), {})
        reader = deciding(
            trained, early_exit=0.97, unknown_below=0.4, network_weight=0.5, temperature=0.15
        )
        publish_traffic(registry, reader, home / "staging-traffic")
    settings = ServeSettings(
        registry=str(home / "registry"),
        redis_url=redis_server.url,
        offline=home / "offline",
        tenant=tenant,
        device="cpu",
        limits=PATIENT,
    )
    watching = ClassifySettings(
        registry=str(home / "registry"), redis_url=redis_server.url, tenant=tenant
    )
    with running(application(settings, watching)) as address:
        yield address


def publish_traffic(registry: Registry, edition: TrafficEdition, staging: Path) -> None:
    """A version with a card, measured on conversations that it was not trained on."""
    path = write_mixed(staging.with_suffix(".pcap"), flows=30, seed=99, spread_s=10.0)
    served = ServedEdition(edition, "measured")
    found = verdicts_of([packets_of(path)], StreamClassifier(served))
    final = [each for each in found if each.final]
    # `write_mixed` gives each application a thousand ports of its own.
    truth = [list(APPLICATIONS)[(each.flow.source_port - 20_000) // 1_000] for each in final]
    right = sum(each.label == name for each, name in zip(final, truth, strict=True)) / len(final)
    unknown = sum(each.label == UNKNOWN for each in final) / len(final)
    sure = sum(each.confidence for each in final) / len(final)
    metrics = {"accuracy": right, "unknown": unknown, "mean_confidence": sure}
    staging.mkdir(parents=True)
    edition.save(staging)
    rows = "".join(f"| {name} | {value:.3f} |\n" for name, value in metrics.items())
    (staging / "model_card.md").write_text(
        f"# Three kinds of conversations\n\nMeasured on **{len(final)} flows** of a later capture."
        f"\n\n| figure | value |\n|---|---|\n{rows}"
    )
    version = registry.publish(
        "traffic",
        staging,
        data_fingerprint="test",
        code_version="test",
        config={},
        metrics=metrics,
    ).version
    registry.promote("traffic", version, alias="champion")


@dataclass(frozen=True)
class Guarded:
    """A service that asks for keys and replays a capture while it serves."""

    url: str
    keys: dict[str, str]


@pytest.fixture(scope="session")
def guarded(
    url: str, tmp_path_factory: pytest.TempPathFactory, redis_server, trained: TrafficEdition
) -> Iterator[Guarded]:
    home = tmp_path_factory.mktemp("guarded")
    registry = Registry(home / "registry")
    for number in range(2):
        make_edition(number).save(home / f"staging-{number}")
        version = registry.publish(
            "recommender",
            home / f"staging-{number}",
            data_fingerprint="test",
            code_version="test",
            config={},
            metrics={"recall@20": 0.2 + number / 10},
        ).version
        registry.promote("recommender", version, alias="champion")
    reader = deciding(
        trained, early_exit=0.97, unknown_below=0.4, network_weight=0.5, temperature=0.15
    )
    publish(registry, reader, home / "staging-traffic")
    made = {name: issue(name, [name]) for name in ("read", "admin")}
    write_keys(home / "keys.json", [key for _, key in made.values()])
    live = write_mixed(home / "live.pcap", flows=150, seed=3, spread_s=90.0)
    settings = ServeSettings(
        registry=str(home / "registry"),
        redis_url=redis_server.url,
        offline=home / "offline",
        tenant="guarded",
        device="cpu",
        api_keys=home / "keys.json",
        limits=PATIENT,
    )
    watching = ClassifySettings(
        registry=str(home / "registry"),
        redis_url=redis_server.url,
        tenant="guarded",
        watch=Watch(capture=live, replay=1.0),
    )
    with running(application(settings, watching)) as address:
        yield Guarded(address, {name: secret for name, (secret, _) in made.items()})


@pytest.fixture
def stranger(browser: Browser, guarded: Guarded) -> Iterator[Page]:
    """A fresh page at the service that asks for keys, without one."""
    context = browser.new_context(viewport={"width": 1360, "height": 860}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(guarded.url)
    yield page
    context.close()


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations for half a minute, of three kinds."""
    directory = tmp_path_factory.mktemp("capture")
    if PICTURES:
        return pictured.write_afternoon(directory)
    return write_mixed(directory / "afternoon.pcap", flows=50, seed=7, spread_s=30.0)


class running:  # noqa: N801 - used as a context manager
    """An application on a free port."""

    def __init__(self, app) -> None:
        self._listener = socket.socket()
        self._ends = app.state.ends_at_exit
        self._listener.bind(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        arguments = {"sockets": [self._listener]}
        self._thread = threading.Thread(target=self._server.run, kwargs=arguments)

    def __enter__(self) -> str:
        self._listener.listen(128)
        self._thread.start()
        address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        httpx.get(f"{address}/readyz", timeout=120).raise_for_status()
        return address

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end()
        self._server.should_exit = True
        self._thread.join()


def histories() -> list[tuple[str, list[Event]]]:
    """One reader of each genre of the invented films."""
    return [
        (f"{genre}-reader", [Event(f"film-{genre}-{n:02}", 1_000 * n) for n in range(6)])
        for genre in ("war", "sea", "love")
    ]


def publish_invented(registry: Registry, staging: Path, *, seed: int) -> None:
    """Films and books of three genres, measured on the next film of each reader."""
    edition = make_edition(seed).with_map()
    edition.save(staging)
    metrics = measured(edition)
    rows = "".join(f"| {name} | {value:.3f} |\n" for name, value in metrics.items())
    (staging / "model_card.md").write_text(
        f"# Films\n\nMeasured on **held-out** items.\n\n| figure | value |\n|---|---|\n{rows}"
    )
    version = registry.publish(
        "recommender",
        staging,
        data_fingerprint="test",
        code_version="test",
        config={},
        metrics=metrics,
    ).version
    registry.promote("recommender", version, alias="champion")


def measured(edition: RecommenderEdition) -> dict[str, float]:
    """How well each reader's next film is found behind the last ones."""
    rows = [
        [edition.catalogue.row_of[event.item_id] for event in events] for _, events in histories()
    ]
    known = edition.weigh([[(row, "click") for row in each[:-1]] for each in rows])
    scores = edition.scores(known, np.zeros((len(rows), 0), np.float32))
    ranks = []
    for each, scored in zip(rows, scores, strict=True):
        scored[each[:-1]] = -np.inf
        ranks.append(int((scored > scored[each[-1]]).sum()))
    found = [rank for rank in ranks if rank < 20]
    return {
        "recall@20": len(found) / len(ranks),
        "ndcg@20": sum(1 / math.log2(rank + 2) for rank in found) / len(ranks),
    }
