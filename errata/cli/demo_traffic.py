"""`errata demo-traffic`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.options import ConfigFile, Overrides, parse_overrides
from errata.console import out
from errata.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("demo-traffic")
    def demo_traffic(
        data: Annotated[
            Path | None,
            typer.Option(
                help="Labelled captures to train on; made here when left out.", exists=True
            ),
        ] = None,
        seconds: Annotated[
            float, typer.Option(help="Fresh traffic to classify, in seconds.", min=1)
        ] = 12.0,
        config: ConfigFile = None,
        overrides: Overrides = None,
    ) -> None:
        """Make traffic on loopback, train on it, then classify fresh traffic while it passes.

        Real servers and clients talk over TCP, UDP and TLS. Their packets are captured from `lo`
        where that is permitted (CAP_NET_RAW), and written down by proxies where it is not. Uses
        again what an earlier run made; everything is kept in ERRATA_HOME/demo.
        """
        from errata.demo.traffic import Play, run_traffic_demo, small_config
        from pipelines.progress import Terminal
        from pipelines.traffic.config import TrafficConfig

        chosen = small_config() if config is None else TrafficConfig.load(config, {})
        settings = Settings().of_demo()
        run_traffic_demo(
            settings,
            chosen.changed(**parse_overrides(overrides)),
            play=Play(live_s=seconds),
            data=data,
            reporter=Terminal(),
            console=out,
        )
        out.print(
            "\nThe model is champion of the demo's registry. Your own traffic with it:\n"
            f"  ERRATA_HOME={settings.home} errata classify --interface eth0",
            highlight=False,
            soft_wrap=True,
        )
