"""`errata demo-traffic`."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.options import ConfigFile, Overrides, parse_overrides
from errata.console import invoked_as, out
from errata.settings import Settings

_LOOPBACK = "lo"


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
        named = Settings()
        settings = named.of_demo()
        run_traffic_demo(
            settings,
            chosen.changed(**parse_overrides(overrides)),
            play=Play(live_s=seconds),
            data=data,
            reporter=Terminal(),
            console=out,
        )
        # A registry that the environment names is not the demo's.
        registry = "" if named.registry_url is None else "ERRATA_REGISTRY_URL= "
        command = f"{registry}ERRATA_HOME={shlex.quote(str(settings.home))} {invoked_as()} classify"
        out.print(
            "\nThe model is champion of the demo's registry. Your own traffic with it, a capture "
            f"or live:\n  {command} trace.pcap\n  {command} --interface {_interface()}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _interface() -> str:
    """One that is here, and where there is another not the loopback."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name != _LOOPBACK), _LOOPBACK)
