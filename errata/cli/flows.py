"""`errata flows`: the flows of a capture, one a line; or a sensor that publishes them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.captures import bytes_of
from errata.cli.flow_queue import open_writer
from errata.cli.graceful import stopped_by_signals
from errata.kafka_topics import PARTITIONS
from errata.settings import Settings

# A live source drops what the queue did not take in this time: its packets do not wait.
LIVE_PATIENCE_S = 2.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def flows(
        capture: Annotated[
            Path | None,
            typer.Argument(help="pcap or pcapng, plain or gzipped; - reads standard input."),
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
        publish: Annotated[
            str | None,
            typer.Option(
                metavar="STREAM",
                help="Publish flows for `errata classify --from-stream`: a name in Redis "
                "(ERRATA_REDIS_URL), or kafka://HOST:PORT/TOPIC.",
            ),
        ] = None,
        interface: Annotated[
            str | None, typer.Option(help="Publish what passes a live interface, until Ctrl-C.")
        ] = None,
        partitions: Annotated[
            int,
            typer.Option(help="Of a stream that is not there yet.", min=1, max=4096),
        ] = PARTITIONS,
        packets: Annotated[
            int,
            typer.Option(help="Publish: packets kept of a flow; the model's, or more.", min=1),
        ] = 20,
        with_bytes: Annotated[
            bool,
            typer.Option("--with-bytes", help="Publish: packets' bytes too, for tier T2 models."),
        ] = False,
        batch: Annotated[
            int,
            typer.Option(help="Publish: flows a message, at most.", min=1),
        ] = 128,
        idle_s: Annotated[
            float, typer.Option("--idle", help="Publish: seconds of silence that end a flow.")
        ] = 120.0,
    ) -> None:
        """Print one line per finished flow, and last a line of packet counts by outcome.

        What is damaged in a capture is counted there too; a file that is no capture at all exits 2.

        With --publish it is a sensor: each flow goes, when it has ended, into the partition of its
        5-tuple as an Arrow record, for any number of workers. A file waits where the stream is
        full; of a live interface what does not fit is dropped, and counted in the last line.

            errata flows trace.pcapng --json | tail -1

            errata flows --interface eth0 --publish flows
        """
        if publish is not None:
            _publish(
                publish,
                capture=capture,
                interface=interface,
                partitions=partitions,
                packets=packets,
                with_bytes=with_bytes,
                batch=batch,
                idle_s=idle_s,
                json=json,
            )
            return
        if interface is not None:
            raise ValueError("--interface goes with --publish; `errata classify` takes one as well")
        source = bytes_of(capture)
        if source is None:
            raise ValueError("nothing to read: name a capture file, or - for standard input")

        from feature_store.traffic.capture import open_capture
        from feature_store.traffic.report import flow_lines

        with open_capture(source) as found:
            for line in flow_lines(found, as_json=json):
                sys.stdout.write(line + "\n")


def _publish(
    stream: str,
    *,
    capture: Path | None,
    interface: str | None,
    partitions: int,
    packets: int,
    with_bytes: bool,
    batch: int,
    idle_s: float,
    json: bool,
) -> None:
    import orjson

    from feature_store.traffic import FlowMeter
    from feature_store.traffic.flows import EndReason, FlowSettings
    from services.classify.publishing import FlowPublisher, publish_flows
    from services.classify.source import open_source

    meter = FlowMeter(FlowSettings(kept_packets=packets, idle_s=idle_s))
    with ExitStack() as stack:
        stop = stack.enter_context(stopped_by_signals())
        source = stack.enter_context(
            open_source(capture=bytes_of(capture), interface=interface, stop=stop)
        )
        writer = stack.enter_context(open_writer(Settings(), stream, partitions=partitions))
        publisher = FlowPublisher(
            writer,
            with_bytes=with_bytes,
            flows_a_message=batch,
            patience_s=None if source.clock is None else LIVE_PATIENCE_S,
            stop=stop,
        )
        publish_flows(source, meter, publisher, stop=stop)
    totals: dict[str, Any] = {
        "packets": sum(meter.outcomes.values()),
        "published": publisher.counts.to_json(),
        "ended": {reason.name.lower(): count for reason, count in meter.table.ended.items()},
        "outcomes": {outcome.name.lower(): count for outcome, count in meter.outcomes.items()},
        "damage": {
            str(reason): count for reason, count in getattr(source.packets, "damage", {}).items()
        },
    }
    if json:
        sys.stdout.write(orjson.dumps(totals).decode() + "\n")
    else:
        sent = publisher.counts
        sys.stdout.write(
            f"{totals['packets']:,} packets; {sent.flows:,} flows in {sent.messages:,} messages "
            f"({sent.bytes / 1e6:.1f} MB) published to {stream}, {sent.dropped:,} dropped, "
            f"{meter.table.ended[EndReason.EVICTED]:,} evicted\n"
        )
