"""`errata classify`: verdicts on a capture, on what passes an interface, or on a queue's flows."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli.captures import bytes_of
from errata.cli.flow_queue import (
    TENANT,
    ClaimAfter,
    Drain,
    FromStream,
    MetricsAddress,
    classify_queue,
)
from errata.cli.graceful import stopped_by_signals
from errata.cli.serve import redis_url
from errata.console import err, out
from errata.settings import Settings

if TYPE_CHECKING:
    from services.classify.stream import StreamClassifier


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def classify(
        capture: Annotated[
            Path | None,
            typer.Argument(help="pcap or pcapng, plain or gzipped; - reads standard input."),
        ] = None,
        interface: Annotated[
            str | None, typer.Option(help="Classify what passes a live interface, until Ctrl-C.")
        ] = None,
        follow: Annotated[
            bool, typer.Option("--follow", help="The file is still being written: wait for more.")
        ] = False,
        replay: Annotated[
            float | None,
            typer.Option(help="Replay at so many times the capture's own speed.", min=0.001),
        ] = None,
        from_stream: FromStream = None,
        model: Annotated[
            str, typer.Option(help="Alias or version of the traffic model.")
        ] = "champion",
        json: Annotated[
            bool,
            typer.Option("--json", help="One JSON object a verdict; the last line has the counts."),
        ] = False,
        final_only: Annotated[
            bool, typer.Option("--final-only", help="Emit no provisional verdicts.")
        ] = False,
        redis_stream: Annotated[
            str | None,
            typer.Option(
                help="Also add verdicts to this Redis Stream (ERRATA_REDIS_URL); with "
                "--from-stream they go there in any case, by default to `verdicts`."
            ),
        ] = None,
        budget_ms: Annotated[
            float, typer.Option(help="Live: verdicts later than this are shed.", min=1)
        ] = 25.0,
        drain: Drain = False,
        claim_after_s: ClaimAfter = 30.0,
        metrics: MetricsAddress = None,
    ) -> None:
        """Classify the flows of a capture or an interface: a verdict after every packet.

        A verdict is provisional until the flow's last kept packet, its end, or an early exit at
        high confidence; `unknown` below the model's threshold. When a live source outruns the
        budget, what is shed is counted by reason; a file waits, and nothing is shed.

        With --from-stream it is one of many workers that share the flows which sensors publish
        (`errata flows --publish`): one final verdict a flow, also when a worker is killed. Start as
        many as it takes; Ctrl-C or SIGTERM ends one after the flows in hand.

            errata classify trace.pcapng --json --final-only

            errata classify --interface eth0

            errata classify --from-stream flows --metrics 127.0.0.1:9464
        """
        import orjson
        import torch

        from feature_store.online import connect
        from feature_store.registry import Registry
        from services.classify import sinks
        from services.classify.loading import load_served
        from services.classify.memory import REDIS_TIMEOUT_S, TrafficMemory
        from services.classify.policy import LatencyBudget
        from services.classify.replicas import RecentStream, Relay
        from services.classify.source import open_source
        from services.classify.stream import StreamClassifier
        from services.classify.stream import classify as classify_stream

        settings = Settings()
        if from_stream is not None:
            if capture is not None or interface is not None or follow or replay is not None:
                raise ValueError("--from-stream takes its flows from sensors: name no capture")
            classify_queue(
                settings,
                from_stream,
                model=model,
                output=redis_stream or "verdicts",
                json=json,
                drain=drain,
                claim_after_s=claim_after_s,
                metrics=metrics,
            )
            return
        if drain or metrics is not None:
            raise ValueError("--drain and --metrics go with --from-stream")
        if capture is None and interface is None:
            raise ValueError(
                "nothing to classify: name a capture file, - for standard input, --interface NAME "
                "or --from-stream STREAM"
            )
        torch.set_num_threads(1)  # a micro-batch is small: more threads cost more than they bring
        with ExitStack() as stack:
            stop = stack.enter_context(stopped_by_signals())
            source = stack.enter_context(
                open_source(
                    capture=bytes_of(capture, follow=follow),
                    interface=interface,
                    follow=follow,
                    replay=replay,
                    stop=stop,
                )
            )
            registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
            served = load_served(registry, model)
            memory = stream = relay = None
            if redis_stream is not None:
                client = connect(
                    stack.enter_context(redis_url(settings)), timeout_s=REDIS_TIMEOUT_S
                )
                stream = sinks.RedisStream(client, redis_stream, final_only=final_only)
                memory = TrafficMemory(client, served, recent=RecentStream(client, tenant=TENANT))
                relay = Relay(client, tenant=TENANT)
            classifier = StreamClassifier(
                served,
                budget=LatencyBudget(latency_ms=budget_ms),
                corrector=memory,
                clock=source.clock,
            )
            chosen: list[sinks.Sink] = []
            if json:
                chosen.append(sinks.JsonLines(sys.stdout.buffer, final_only=final_only))
            else:
                table = sinks.LiveTable(
                    classifier.counts,
                    out,
                    title=f"traffic of {source.name}",
                    pending=lambda: f"{len(classifier.meter.table):,} running",
                )
                chosen.append(stack.enter_context(table))
            chosen += [each for each in (stream, memory, relay) if each is not None]
            for verdicts in classify_stream(source, classifier, stop=stop):
                for sink in chosen:
                    sink.write(verdicts)
            for sink in chosen:
                sink.close()
        counts = summary(classifier, source.packets)
        if stream is not None:
            counts["redis_stream_dropped"] = stream.dropped
        if json:
            sys.stdout.buffer.write(orjson.dumps(counts, option=orjson.OPT_APPEND_NEWLINE))
            sys.stdout.buffer.flush()
        else:
            err.print(_text(counts), highlight=False, soft_wrap=True)


def summary(classifier: StreamClassifier, packets: object) -> dict[str, Any]:
    """The last line: what became of packets and flows, and how long it took."""
    damage = getattr(packets, "damage", {})
    return {
        "packets": sum(classifier.meter.outcomes.values()),
        **classifier.counts.to_json(),
        "states_dropped": classifier.states_dropped,
        "outcomes": {each.name.lower(): n for each, n in classifier.meter.outcomes.items()},
        "damage": {str(reason): n for reason, n in damage.items()},
    }


def _text(counts: dict[str, Any]) -> str:
    parts = [f"{counts['packets']:,} packets, {counts['flows']:,} flows"]
    if counts["evicted"]:
        parts[0] += f" ({counts['evicted']:,} evicted: more ran at once than are kept)"
    for key in ("outcomes", "damage", "shed"):
        found = ", ".join(f"{n:,} {name}" for name, n in counts[key].items() if n)
        if found:
            parts.append(f"{key}: {found.replace('_', ' ')}")
    return "; ".join(parts)
