"""`errata memory`: look into the error memory of a served version, and undo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from errata.cli.evaluate_memory import Kind, open_subject, served_policy
from errata.cli.options import Json
from errata.cli.serve import redis_url
from errata.console import out, print_json
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER, TRAFFIC

if TYPE_CHECKING:
    from feature_store.editions.traffic import TrafficEdition
    from feature_store.error_memory.batch import ErrorBatch
    from feature_store.error_memory.log import MemoryLog
    from feature_store.error_memory.replica import MemoryReplica
    from feature_store.registry import Registry

Model = Annotated[str, typer.Option("--model", help="Name of the model.")]
Version = Annotated[str, typer.Option("--version", help="A version, or an alias.")]
_COLUMNS = ("time", "source", "label", "prediction", "error")
Tenant = Annotated[str, typer.Option("--tenant", help="Prefix of the keys in Redis.")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="What a served version got wrong lately, and how that corrects it.",
        no_args_is_help=True,
    )
    app.add_typer(group, name="memory")

    @group.command()
    def stats(
        model: Model = RECOMMENDER,
        version: Version = "champion",
        tenant: Tenant = "default",
        json: Json = False,
    ) -> None:
        """Entries, mixing weights, whether the gate is open, and what the memory is worth.

        Read from the stream as every replica reads it; `reads` and `hits` are what services have
        told of all their replicas.

        `excess_loss` is the corrected log loss minus the model's own, lately: below 0 it helps.
        `drift` is the model's own error in the window that ADWIN keeps, and how often it rose;
        `alarm` is the last rise that nobody has answered with `errata retrain`.
        """
        from feature_store.error_memory.drift import DriftFlag
        from feature_store.error_memory.usage import told

        with _opened(model, version, tenant) as opened:
            log, replica = opened.log, opened.replica
            facts: dict[str, Any] = {
                "model": model,
                "version": log.version,
                "position": log.position(),
                "decisions": [each.kind for each in log.controls()[0]],
            }
            facts |= asdict(replica.memory.stats()) | asdict(told(log))
            facts["drift"] = asdict(replica.drift)
            facts["alarm"] = DriftFlag(log.client, model=model, tenant=tenant).read()
        if json:
            print_json(facts)
            return
        table = Table("", f"{model} {facts['version']}")
        for name, value in facts.items():
            if isinstance(value, dict):
                value = ", ".join(
                    f"{key} {each:.3f}" if isinstance(each, float) else f"{key} {each}"
                    for key, each in value.items()
                )
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
        out.print(table)

    @group.command()
    def tail(
        n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 10,
        model: Model = RECOMMENDER,
        version: Version = "champion",
        tenant: Tenant = "default",
        json: Json = False,
    ) -> None:
        """Print the newest entries: when, from which source, label, prediction, error."""
        with _opened(model, version, tenant) as opened:
            log = opened.log
            after = max(log.position() - n - 4096, 0)
            rows = [row for _, batch in log.entries(after=after) for row in _rows(batch)][-n:]
        if json:
            print_json(rows)
            return
        table = Table(*_COLUMNS)
        for row in rows:
            table.add_row(*(str(row[name]) for name in _COLUMNS))
        out.print(table)

    @group.command()
    def explain(
        prediction_id: Annotated[str, typer.Argument(help="From an answer.")],
        model: Model = RECOMMENDER,
        version: Version = "champion",
        tenant: Tenant = "default",
        json: Json = False,
    ) -> None:
        """Say what the memory holds near each item of an answer that still waits for its outcome:
        the model's probability, and what it becomes."""
        from feature_store.error_memory.outcomes import Outcomes

        with _opened(model, version, tenant) as opened:
            log = opened.log
            outcomes = Outcomes(log.client, lambda _, batch: log.append(batch), tenant=tenant)
            served = outcomes.served(prediction_id)
            if served is None:
                raise ValueError(
                    f"no prediction '{prediction_id}' is kept: it never was, or its time is over"
                )
            batch = served.batch
            corrected = opened.replica.read(batch.keys, batch.predictions).corrected
        rows = [
            {
                "item": name,
                "model": round(float(before.max()), 5),
                "now": round(float(after.max()), 5),
            }
            for name, before, after in zip(served.names, batch.predictions, corrected, strict=True)
        ]
        if json:
            print_json({"prediction_id": prediction_id, "version": served.version, "items": rows})
            return
        table = Table("item", "the model's probability", "with the memory")
        for row in rows:
            table.add_row(str(row["item"]), f"{row['model']:.5f}", f"{row['now']:.5f}")
        out.print(table)

    @group.command()
    def forget(
        where: Annotated[
            str, typer.Option("--where", metavar="source=NAME", help="Whose entries.")
        ],
        model: Model = RECOMMENDER,
        version: Version = "champion",
        tenant: Tenant = "default",
    ) -> None:
        """Cut a source out of every replica, also what it sends later; says how many entries of
        it there are now.

        errata memory forget --where source=user-17
        """
        name, separator, source = where.partition("=")
        if name != "source" or not separator or not source:
            raise ValueError(f"--where takes source=NAME, not '{where}'")
        # Of recommendations the user is the source.
        if model == RECOMMENDER and (pseudonyms := Settings().pseudonyms) is not None:
            source = pseudonyms(source)
        with _opened(model, version, tenant) as opened:
            opened.log.forget_source(source)
            entries = opened.log.said_by(source)
        version = opened.log.version
        if entries:
            told = f"'{source}' is forgotten by {model} {version}: left out are its {entries:,} "
            told += f"{'entry' if entries == 1 else 'entries'}, and what it sends later"
        else:
            told = f"nothing that {model} {version} remembers is from '{source}': 0 entries are "
            told += "affected, and what it sends later is left out"
        out.print(told, highlight=False, soft_wrap=True)

    @group.command()
    def off(
        model: Model = RECOMMENDER, version: Version = "champion", tenant: Tenant = "default"
    ) -> None:
        """Stop correcting, in every replica; entries are still collected."""
        _decide("off", model, version, tenant)

    @group.command()
    def on(
        model: Model = RECOMMENDER, version: Version = "champion", tenant: Tenant = "default"
    ) -> None:
        """Correct again."""
        _decide("on", model, version, tenant)

    @group.command()
    def tune(
        data: Annotated[
            Path | None,
            typer.Option(
                "--data",
                help="Tables of interactions, labelled captures, or a folder of LUFlow days.",
                exists=True,
            ),
        ] = None,
        model: Model = RECOMMENDER,
        version: Version = "champion",
        tenant: Tenant = "default",
        apply: Annotated[bool, typer.Option("--apply", help="Let every replica follow.")] = False,
        json: Json = False,
    ) -> None:
        """Choose a policy by replaying the entries that are kept, oldest first, or switch off.

        Every candidate predicts before it learns. Classes are judged by log loss; scores by AUC,
        and their log loss must not be worse. With --data the version sees the stream of a folder in
        place of its own entries; with --apply what comes out holds for the served version.
        """
        from pipelines.memory.luflow import frozen_stream, load_days
        from pipelines.memory.stream import of_entries
        from pipelines.memory.tuning import tune as choose
        from pipelines.progress import Terminal

        if data is not None and _holds_days(data):
            if apply:
                raise ValueError("--apply: these days are seen by a network of their own")
            days = load_days(data, most=3)
            stream = frozen_stream(days, train_day=0, seed=0)[days.day == 1]
            tuning = choose(stream, delays=(256, 10_240), reporter=Terminal())
        elif data is not None:
            kind: Kind = "traffic" if model == TRAFFIC else "recommender"
            stream = open_subject(kind, version, data, reporter=Terminal()).stream
            tuning = choose(stream, delays=(256,), reporter=Terminal())
        else:
            with _opened(model, version, tenant) as opened:
                stream = of_entries([batch for _, batch in opened.log.entries()])
            tuning = choose(stream, delays=(256,), reporter=Terminal())
        if apply:
            with _opened(model, version, tenant) as opened:
                opened.log.decide("policy", **tuning.policy.model_dump(mode="json"))
        best = tuning.best
        facts = {
            "events": len(stream),
            "enabled": tuning.policy.enabled,
            "judged_by": "log_loss" if best.auc is None else "auc",
            "gain": best.gain.mean,
            "interval": [best.gain.lower, best.gain.upper],
            "log_loss_saved": best.log_loss.mean,
            "policy": tuning.policy.model_dump(mode="json"),
        }
        if json:
            print_json(facts)
            return
        verdict = "on" if tuning.policy.enabled else "off: no candidate's gain is certain"
        worth = "saves log loss" if best.auc is None else "gains AUC"
        out.print(
            f"{len(stream):,} events; the best candidate {worth} by {best.gain.mean:.5f} "
            f"[{best.gain.lower:.5f}, {best.gain.upper:.5f}]: {verdict}",
            highlight=False,
        )


def _holds_days(folder: Path) -> bool:
    """Whether this is a folder of LUFlow days: `YYYY.MM.DD.zip` or `.csv`."""
    return any(folder.glob("[12][0-9][0-9][0-9].[01][0-9].[0-3][0-9].*"))


@dataclass(frozen=True)
class _Opened:
    """A version whose memory is looked at; `url` is the Redis that holds it."""

    registry: Registry
    url: str
    log: MemoryLog

    @cached_property
    def edition(self) -> TrafficEdition:
        """Of a traffic classifier."""
        from feature_store.editions.traffic import TrafficEdition

        directory, _ = self.registry.open(self.log.model, self.log.version)
        return TrafficEdition.load(directory)

    @cached_property
    def replica(self) -> MemoryReplica:
        """The memory as a replica of the service has it."""
        from pipelines.scoring.memory import MemorySource

        model, version = self.log.model, self.log.version
        source = MemorySource(self.url, served_policy(model), self.log.tenant)
        if model != TRAFFIC:
            return source.of_lists(version, model=model)
        width, own = self.edition.keys.centre.shape[0], len(self.edition.classes)
        return source.of_classes(version, d=width, classes=own)


@contextmanager
def _opened(model: str, version: str, tenant: str) -> Iterator[_Opened]:
    from feature_store.error_memory.log import MemoryLog
    from feature_store.online import connect
    from feature_store.registry import Registry

    settings = Settings()
    registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
    resolved = registry.resolve(model, version)
    with redis_url(settings) as url:
        client = connect(url, timeout_s=10)
        log = MemoryLog(client, model=model, version=resolved, tenant=tenant)
        yield _Opened(registry, url, log)


def _decide(kind: str, model: str, version: str, tenant: str) -> None:
    with _opened(model, version, tenant) as opened:
        opened.log.decide(kind)
    out.print(f"{model} {opened.log.version}: {kind}")


def _rows(batch: ErrorBatch) -> list[dict[str, Any]]:
    import numpy as np

    return [
        {
            "time": datetime.fromtimestamp(int(when) / 1e3, UTC).isoformat(timespec="seconds"),
            "source": f"{int(source):016x}",
            "label": np.round(label, 4).tolist(),
            "prediction": np.round(prediction, 4).tolist(),
            "error": np.round(label - prediction, 4).tolist(),
        }
        for when, source, label, prediction in zip(
            batch.time_ms, batch.sources, batch.labels, batch.predictions, strict=True
        )
    ]
