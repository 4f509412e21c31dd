"""`errata memory`: look into the error memory of a served version, and undo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from errata.cli.evaluate_memory import Kind, open_subject, served_policy
from errata.cli.explained_flow import explained_flow, flow_facts, print_flow
from errata.cli.memory_entries import (
    Origins,
    flow_rows,
    flow_table,
    score_rows,
    score_table,
    with_vectors,
)
from errata.cli.opened_memory import opened_memory
from errata.cli.options import Json
from errata.console import out, print_json, print_lines
from errata.settings import Settings
from feature_store.registry.names import RECOMMENDER, TRAFFIC

Model = Annotated[str, typer.Option("--model", help="Name of the model.")]
Version = Annotated[str, typer.Option("--version", help="A version, or an alias.")]
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

        with opened_memory(model, version, tenant) as opened:
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
        """Print the newest entries, a line each: when, from which source, what it was, and what the
        model alone had said of it.

        An entry of traffic has the flow's time, by the clock of its capture; the label's own, and
        the name of its source, are known where the offline log of labels is kept.
        """
        with opened_memory(model, version, tenant) as opened:
            log = opened.log
            newest = log.newest(n)
            if model == TRAFFIC:
                ids = [each for batch in newest for each in batch.feedback_ids.tolist()]
                origins = Origins.of_flows(log, Settings().offline_directory / "labels", ids)
                rows = [
                    row
                    for batch in newest
                    for row in with_vectors(flow_rows(batch, opened.classes, origins), batch)
                ]
                table = flow_table(rows)
            else:
                rows = [row for batch in newest for row in score_rows(batch)]
                table = score_table(rows)
        if json:
            print_json(rows)
        else:
            print_lines(table)

    @group.command()
    def explain(
        prediction_id: Annotated[str, typer.Argument(help="From an answer.")],
        model: Model = RECOMMENDER,
        version: Version = "champion",
        tenant: Tenant = "default",
        json: Json = False,
    ) -> None:
        """Say what the memory makes of an answer.

        Of recommendations, while they wait for their outcome: each item's probability by the model,
        and what it becomes. Of a flow, while its verdict is among the newest: what the model alone
        says, what was answered, what would be answered now, and the entries that move it; what is
        no longer kept one by one may move it too.

            errata memory explain 6f1c… --model traffic
        """
        if model == TRAFFIC:
            with opened_memory(model, version, tenant) as opened:
                found, rows = explained_flow(opened, prediction_id)
            if json:
                print_json(flow_facts(found) | {"entries": rows})
            else:
                print_flow(found, rows)
            return
        from feature_store.error_memory.outcomes import Outcomes

        with opened_memory(model, version, tenant) as opened:
            log = opened.log
            outcomes = Outcomes(
                log.client, lambda _, batch: log.append(batch), model=model, tenant=tenant
            )
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
        with opened_memory(model, version, tenant) as opened:
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

        guards = served_policy(model)
        if data is not None and _holds_days(data):
            if apply:
                raise ValueError("--apply: these days are seen by a network of their own")
            days = load_days(data, most=3)
            stream = frozen_stream(days, train_day=0, seed=0)[days.day == 1]
            tuning = choose(stream, delays=(256, 10_240), reporter=Terminal())
        elif data is not None:
            kind: Kind = "traffic" if model == TRAFFIC else "recommender"
            stream = open_subject(kind, version, data, reporter=Terminal()).stream
            tuning = choose(stream, delays=(256,), guards=guards, reporter=Terminal())
        else:
            with opened_memory(model, version, tenant) as opened:
                stream = of_entries([batch for _, batch in opened.log.entries()])
            tuning = choose(stream, delays=(256,), guards=guards, reporter=Terminal())
        if apply:
            with opened_memory(model, version, tenant) as opened:
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


def _decide(kind: str, model: str, version: str, tenant: str) -> None:
    with opened_memory(model, version, tenant) as opened:
        opened.log.decide(kind)
    out.print(f"{model} {opened.log.version}: {kind}")
