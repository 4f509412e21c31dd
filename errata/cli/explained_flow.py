"""What the memory made of a flow, as `errata memory explain` shows it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from errata.cli.memory_entries import Origins, flow_rows, flow_table
from errata.cli.opened_memory import OpenedMemory
from errata.console import out, print_lines
from errata.settings import Settings

if TYPE_CHECKING:
    from services.classify.explaining import ExplainedVerdict

_ENTRIES = 12


def explained_flow(
    opened: OpenedMemory, prediction_id: str
) -> tuple[ExplainedVerdict, list[dict[str, Any]]]:
    """The verdict, and the entries that move it.

    Raises:
        ValueError: no such verdict is kept, or it is another version's.
    """
    from services.classify.explaining import explain, recent_verdict
    from services.classify.neighbours import KEPT

    log = opened.log
    verdict = recent_verdict(log.client, prediction_id, tenant=log.tenant)
    if verdict is None:
        raise ValueError(
            f"no final verdict '{prediction_id}' is kept: the newest {KEPT:,} are, of all services "
            "that share a Redis and a tenant"
        )
    if verdict.model_version != log.version:
        raise ValueError(
            f"'{prediction_id}' is a verdict of {verdict.model_version}, not of {log.version}: "
            f"give --version {verdict.model_version}"
        )
    found = explain(verdict, opened.edition, opened.replica, opened.classes, k=_ENTRIES)
    entries = found.entries
    labels = Settings().offline_directory / "labels"
    origins = Origins.of_flows(log, labels, entries.feedback_ids.tolist())
    rows = [
        row | {"influence": round(float(influence), 4), "age": int(age)}
        for row, influence, age in zip(
            flow_rows(entries, opened.classes, origins),
            entries.influence,
            entries.ages,
            strict=True,
        )
    ]
    return found, rows


def flow_facts(found: ExplainedVerdict) -> dict[str, Any]:
    """For programs."""
    verdict = found.verdict
    return {
        "prediction_id": verdict.prediction_id,
        "version": verdict.model_version,
        "verdict": verdict.to_json(),
        "model": asdict(found.own),
        "now": asdict(found.now),
        "corrects": found.gate_open,
    }


def print_flow(found: ExplainedVerdict, rows: list[dict[str, Any]]) -> None:
    """For people."""
    verdict = found.verdict
    out.print(f"{verdict.flow}", markup=False, highlight=False, soft_wrap=True)
    table = Table("", "label", "likeliest", "probability")
    for what, said in (
        ("the model alone", found.own),
        ("as it was answered", verdict),
        ("with the memory as it is now", found.now),
    ):
        table.add_row(what, Text(said.label), Text(said.guess), f"{said.confidence:.5f}")
    out.print(table)
    if not found.gate_open:
        out.print("The memory only watches now: it is switched off, or its gate is closed.")
    if rows:
        out.print("What speaks loudest to it:")
        print_lines(flow_table(rows, "influence", "age"))
    else:
        out.print("No entry that is kept one by one is near it.")
