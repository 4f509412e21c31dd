"""`errata serve`: the HTTP service, with a Redis of its own where none is named."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata import __version__
from errata.cli.options import ConfigFile, Overrides, parse_overrides
from errata.console import err
from errata.kafka_topics import SCHEME, TopicAddress
from errata.settings import Settings

if TYPE_CHECKING:
    import redis


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def serve(
        host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
        admin_port: Annotated[
            int | None,
            typer.Option(
                help="Answer metrics and what needs an admin's key on this port, and on no other.",
                min=1,
                max=65535,
            ),
        ] = None,
        alias: Annotated[str, typer.Option(help="Which version serves.")] = "champion",
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        workers: Annotated[
            int, typer.Option(help="Processes that share the port and the index.", min=1, max=256)
        ] = 1,
        interface: Annotated[
            str | None, typer.Option(help="Classify what passes it: see GET /v1/verdicts.")
        ] = None,
        capture: Annotated[
            Path | None,
            typer.Option(
                help="Classify a capture file while serving.", exists=True, dir_okay=False
            ),
        ] = None,
        replay: Annotated[
            float | None, typer.Option(help="Replay the capture at so many times its speed.")
        ] = None,
        labels_stream: Annotated[
            str | None,
            typer.Option(
                metavar="STREAM",
                help="Take outcomes also from here: a name in Redis, or kafka://HOST:PORT/TOPIC.",
            ),
        ] = None,
        config: ConfigFile = None,
        overrides: Overrides = None,
    ) -> None:
        """Serve recommendations, and verdicts on traffic, over HTTP.

        Redis is the server in ERRATA_REDIS_URL, or an embedded one under ERRATA_HOME that stops
        with this process. A promoted version takes over without a restart. Catalogues, business
        rules, a challenger's share and limits are in --config: see configs/serve.yaml.

        An --interface or a --capture that cannot be had ends the start; one that goes away later is
        an error in the log, and the rest is served on.

        A message of --labels-stream is a field `json` with a body of POST /v1/feedback or
        /v1/labels, or the body's fields; in Kafka, the body. Replicas share them as one consumer
        group, at least once, counted once. What was read stays in the stream, unless users have
        pseudonyms: cap it where it is written (XADD … MAXLEN).

            errata serve --port 8000      # the dashboard is at http://127.0.0.1:8000, docs at /docs
        """
        from pydantic import ValidationError

        from errata.application import application
        from feature_store.online import describe
        from pipelines.setting_errors import explain
        from services.classify.settings import ClassifySettings, Watch
        from services.classify.source import refuse_unavailable
        from services.recommend.settings import ServeSettings
        from services.recommend.workers import serve as run

        if labels_stream is not None and labels_stream.startswith(SCHEME):
            TopicAddress.parse(labels_stream)
        watched = interface is not None or capture is not None or replay is not None
        if watched and workers > 1:
            raise ValueError("--interface and --capture go with --workers 1: one process watches")
        given = read_settings(config, parse_overrides(overrides))
        if admin_port is not None:
            given["admin_port"] = admin_port
        if given.get("admin_port") == port:
            raise ValueError("--admin-port must be another than --port")

        settings = Settings()
        own = {
            "registry": settings.registry,
            "redis_url": "",  # that of one that is yet to be started
            "offline": settings.offline_directory,
            "alias": alias,
            "tenant": tenant,
            "device": device,
            "api_keys": settings.api_keys,
            "pseudonyms": settings.pseudonyms,
            "code_version": __version__,
        }
        try:
            serving = ServeSettings.model_validate(given | own)
        except ValidationError as error:
            raise ValueError(explain(error, ServeSettings, hidden=own)) from error
        log_to_stderr(settings)
        if watched:
            refuse_unavailable(capture=capture, interface=interface, replay=replay)
        with redis_url(settings, must_answer=False) as url:
            serving = serving.model_copy(update={"redis_url": url})
            traffic = ClassifySettings(
                registry=settings.registry,
                redis_url=url,
                redis_share=serving.limits.redis_share,
                alias=alias,
                tenant=tenant,
                labels=settings.offline_directory / "labels",
                watch=Watch(interface=interface, capture=capture, replay=replay)
                if watched
                else None,
                code_version=__version__,
            )

            def announce() -> None:
                err.print(
                    f"serving http://{host}:{port}   docs http://{host}:{port}/docs"
                    f"{f'   admin port {serving.admin_port}' if serving.admin_port else ''}\n"
                    f"redis {describe(url)}   registry {settings.registry}   alias {alias}",
                    highlight=False,
                    soft_wrap=True,
                )

            run(
                serving,
                build=functools.partial(application, traffic=traffic, labels_stream=labels_stream),
                host=host,
                port=port,
                workers=workers,
                prepare=functools.partial(log_to_stderr, settings),
                bound=announce,
            )


def read_settings(file: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """The YAML file with the overrides laid over it.

    Raises:
        ValueError: the file is no mapping, or an override goes into something that is none.
    """
    import yaml

    try:
        settings = {} if file is None else yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds no settings by name")
    for name, value in overrides.items():
        *parents, last = name.split(".")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {name}: '{parent}' is no group of settings")
        place[last] = value
    return settings


def log_to_stderr(settings: Settings) -> None:
    """Log lines as the environment wants them."""
    from services.access import JsonFormatter

    text = logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


@contextmanager
def redis_url(settings: Settings, *, must_answer: bool = True) -> Iterator[str]:
    """The named server, checked, or an embedded one for the length of the block.

    Args:
        settings: name the server, or do not.
        must_answer: a named server that is away is an error; otherwise a warning, for what goes on
            without it and finds it again. One that answers and refuses is always an error.

    Raises:
        ValueError: the name is no URL of a Redis.
        redis.RedisError: the named server does not answer, or refuses.
        EmbeddedRedisError: no embedded one could be started.
    """
    import redis

    from feature_store.online import EmbeddedRedis, connect, describe

    if settings.redis_url is not None:
        try:
            client = connect(settings.redis_url, timeout_s=2.0)
        except ValueError as error:
            raise ValueError(f"ERRATA_REDIS_URL={describe(settings.redis_url)}: {error}") from error
        try:
            client.ping()
        except redis.RedisError as error:
            if not must_answer and _is_away(error):
                err.print(
                    f"[yellow]no Redis answers at {describe(settings.redis_url)}[/yellow]: serving "
                    "without what users did; it is taken up as soon as it answers",
                    highlight=False,
                    soft_wrap=True,
                )
                yield settings.redis_url
                return
            raise redis.ConnectionError(
                f"no Redis answers at ERRATA_REDIS_URL={describe(settings.redis_url)} ({error}). "
                "Start it, correct the URL, or unset it for an embedded one."
            ) from error
        yield settings.redis_url
        return
    with EmbeddedRedis(settings.redis_directory) as server:
        yield server.url


def _is_away(error: redis.RedisError) -> bool:
    """Whether the server may yet come: nobody answers, or it still reads its files."""
    import redis

    refuses = redis.AuthenticationError | redis.exceptions.AuthorizationError
    away = redis.ConnectionError | redis.TimeoutError
    return isinstance(error, away) and not isinstance(error, refuses)
