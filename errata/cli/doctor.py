"""`errata doctor`: what this machine has, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.table import Table

from errata.cli.options import Json
from errata.console import out, print_json
from errata.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def doctor(json: Json = False) -> None:
        """Check Python, torch, FAISS, Redis, the data directory, the registry, and the key that
        names users."""
        settings = Settings()
        findings = [
            _torch(),
            _faiss(),
            _redis(settings),
            _text_encoder(),
            _home(settings.home),
            _registry(settings),
            _user_ids(settings),
        ]
        if json:
            print_json([asdict(each) for each in findings])
        else:
            table = Table("", "", "found", "what to do", show_header=True)
            for each in findings:
                mark = "[green]ok[/green]" if each.ok else "[red]missing[/red]"
                table.add_row(mark, each.name, each.found, each.remedy)
            out.print(table)
        if not all(each.ok for each in findings):
            raise typer.Exit(1)


def _torch() -> Finding:
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    found = f"Python {platform.python_version()}, torch {torch.__version__}, {gpu}, "
    return Finding("compute", True, found + f"{os.cpu_count()} cores")


def _faiss() -> Finding:
    from feature_store.vectors import FaissInstallationError, faiss_build

    try:
        build = faiss_build()
    except FaissInstallationError as error:
        return Finding("FAISS", False, "cannot be used", str(error))
    return Finding("FAISS", True, f"{build.wheel} {build.version}, sees {build.gpus} GPUs")


def _redis(settings: Settings) -> Finding:
    import redis

    from feature_store.online import EmbeddedRedis, EmbeddedRedisError, connect, describe
    from feature_store.online.embedded import find_server

    try:
        if settings.redis_url is not None:
            version = connect(settings.redis_url, timeout_s=2.0).info("server")["redis_version"]
            return Finding("Redis", True, f"{describe(settings.redis_url)}, version {version}")
        with (
            tempfile.TemporaryDirectory(prefix="errata-") as directory,
            EmbeddedRedis(Path(directory)) as server,
        ):
            version = connect(server.url, timeout_s=5.0).info("server")["redis_version"]
        return Finding("Redis", True, f"embedded {find_server().name}, protocol of {version}")
    except (redis.RedisError, EmbeddedRedisError) as error:
        return Finding("Redis", False, str(error), "start it, or correct ERRATA_REDIS_URL")


def _text_encoder() -> Finding:
    if importlib.util.find_spec("wordllama"):
        return Finding("text vectors", True, "wordllama")
    return Finding("text vectors", False, "no encoder", "pip install wordllama")


def _home(home: Path) -> Finding:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return Finding("ERRATA_HOME", True, str(home))
    except OSError as error:
        return Finding("ERRATA_HOME", False, str(error), "set ERRATA_HOME to a writable folder")


def _registry(settings: Settings) -> Finding:
    from feature_store.registry import Registry

    registry = Registry(settings.registry)
    found = [f"{model} {alias}" for model in registry.models() for alias in registry.aliases(model)]
    return Finding("registry", True, f"{settings.registry}: {', '.join(found) or 'empty'}")


def _user_ids(settings: Settings) -> Finding:
    try:
        pseudonyms = settings.pseudonyms
    except (OSError, ValueError) as error:
        return Finding("user ids", False, str(error), "correct ERRATA_USER_KEY")
    if pseudonyms is None:
        return Finding("user ids", True, "kept as they are sent (ERRATA_USER_KEY hashes them)")
    return Finding("user ids", True, f"hashed by the key {pseudonyms.key_id}")
