"""`errata flows`: the flows of a capture, one a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def flows(
        capture: Annotated[
            Path, typer.Argument(help="pcap or pcapng, plain or gzipped; - reads standard input.")
        ],
        json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    ) -> None:
        """Print one line per finished flow, and last a line of packet counts by outcome.

        What is damaged in a capture is counted there too; a file that is no capture at all exits 2.

            errata flows trace.pcapng --json | tail -1
        """
        import sys

        from feature_store.traffic.capture import open_capture
        from feature_store.traffic.report import flow_lines

        source = sys.stdin.buffer if str(capture) == "-" else capture
        with open_capture(source) as packets:
            for line in flow_lines(packets, as_json=json):
                sys.stdout.write(line + "\n")
