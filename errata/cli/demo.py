"""`errata demo` and `errata materialise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.data import read_dataset
from errata.cli.options import ConfigFile, MaxRejectShare, Overrides, parse_overrides
from errata.cli.serve import redis_url
from errata.console import invoked_as, out
from errata.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def demo(
        data: Annotated[
            Path | None,
            typer.Option(help="Your own interactions; MovieLens-100K when left out.", exists=True),
        ] = None,
        config: ConfigFile = None,
        overrides: Overrides = None,
        port: Annotated[int, typer.Option(help="Port of the service.", min=1, max=65535)] = 8000,
        stop: Annotated[bool, typer.Option("--stop", help="Stop the service and leave.")] = False,
    ) -> None:
        """Train on real data, serve, click, and show what the click changed.

        Uses again what an earlier run made. The service is left up: stop it with --stop. The demo
        keeps everything in ERRATA_HOME/demo, apart from your own data; its Redis too, or, in the
        one that ERRATA_REDIS_URL names, under a tenant of its own.
        """
        from errata.demo.recommender import run_demo, stop_demo
        from pipelines.progress import Terminal
        from pipelines.recommender.config import RecommenderConfig

        settings = Settings().of_demo()
        if stop:
            out.print("stopped" if stop_demo(settings) else "no demo service is running")
            return
        if settings.redis_url is not None:
            with redis_url(settings):  # one that is away is an error before the training
                pass
        url = run_demo(
            settings,
            RecommenderConfig.load(config, parse_overrides(overrides)),
            source=data,
            port=port,
            reporter=Terminal(),
            console=out,
        )
        out.print(
            f"\nThe service is up: {url}   (try {url}/docs)\n"
            f"""  curl -s {url}/v1/recommendations -H 'content-type: application/json' \\
       -d '{{"history": ["50", "181"], "k": 5, "explain": true}}'\n"""
            f"Stop it with:  {invoked_as()} demo --stop",
            highlight=False,
            soft_wrap=True,
        )

    @app.command("materialise")
    def materialise_(
        data: Annotated[Path, typer.Option("--data", help="Imported tables, or a known format.")],
        tenant: Annotated[str, typer.Option(help="Prefix of the keys in Redis.")] = "default",
        max_reject_share: MaxRejectShare = 0.01,
    ) -> None:
        """Load histories and user features from tables into the online store.

        A user who already has a history online keeps it.
        """
        from feature_store.online import OnlineStore, connect
        from feature_store.pseudonyms import ONLINE, differs
        from pipelines.progress import Terminal
        from pipelines.recommender.materialise import materialise

        settings = Settings()
        dataset = read_dataset(
            data,
            format="auto",
            max_reject_share=max_reject_share,
            rejects_path=settings.home / "rejects",
            pseudonyms=settings.pseudonyms,
        )
        with redis_url(settings) as url:
            store = OnlineStore(connect(url, timeout_s=10), tenant=tenant)
            own = None if settings.pseudonyms is None else settings.pseudonyms.key_id
            if problem := differs(store.named_by(own), own, whose=ONLINE.format(tenant)):
                raise ValueError(problem)
            users = materialise(dataset, store, reporter=Terminal())
        kept = f"; {users.kept:,} kept the one they had" if users.kept else ""
        out.print(f"{users.loaded:,} users got a history{kept}", highlight=False)
