"""`errata serve`: the HTTP service, with a Redis of its own where none is named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import redis
import typer

from errata import __version__
from errata.console import err
from errata.settings import Settings
from feature_store.online import EmbeddedRedis, connect, describe


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def serve(
        host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
        alias: Annotated[str, typer.Option(help="Which version serves.")] = "champion",
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ) -> None:
        """Serve recommendations over HTTP.

        Redis is the server in ERRATA_REDIS_URL, or an embedded one under ERRATA_HOME that stops
        with this process. A promoted version takes over without a restart.

            errata serve --port 8000      # then see http://127.0.0.1:8000/docs
        """
        import uvicorn

        from services.recommend.app import create_app
        from services.recommend.settings import ServeSettings

        logging.basicConfig(
            level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", force=True
        )
        settings = Settings()
        with redis_url(settings) as url:
            serving = ServeSettings.model_validate(
                {
                    "registry": settings.registry,
                    "redis_url": url,
                    "offline": settings.offline_directory,
                    "alias": alias,
                    "tenant": tenant,
                    "device": device,
                    "code_version": __version__,
                }
            )
            err.print(
                f"serving http://{host}:{port}   docs http://{host}:{port}/docs\n"
                f"redis {describe(url)}   registry {settings.registry}   alias {alias}",
                highlight=False,
                soft_wrap=True,
            )
            uvicorn.run(create_app(serving), host=host, port=port, log_level="warning")


@contextmanager
def redis_url(settings: Settings) -> Iterator[str]:
    """The named server, checked, or an embedded one for the length of the block.

    Raises:
        redis.RedisError: the named server does not answer.
        EmbeddedRedisError: no embedded one could be started.
    """
    if settings.redis_url is not None:
        try:
            connect(settings.redis_url, timeout_s=2.0).ping()
        except redis.RedisError as error:
            raise redis.ConnectionError(
                f"no Redis answers at ERRATA_REDIS_URL={describe(settings.redis_url)} ({error}). "
                "Start it, correct the URL, or unset it for an embedded one."
            ) from error
        yield settings.redis_url
        return
    with EmbeddedRedis(settings.redis_directory) as server:
        yield server.url
