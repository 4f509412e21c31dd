"""Runs a job: unit by unit, block by block, and on from where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import polars as pl

from pipelines.progress import Reporter, Silent
from pipelines.scoring.output import (
    PREPARATION,
    REJECTS,
    STAGED,
    JobManifest,
    Output,
    UnitReport,
)

Block = TypeVar("Block", bound=Sized)


class Scorer(Protocol[Block]):
    """An open edition that scores the units of one job.

    A unit is read in the same blocks every time: a block's number then says whether its part is
    there already.
    """

    def read(self, unit: int, report: UnitReport) -> Iterator[Block]:
        """The unit's blocks in order; what is left out and counted goes into the report."""

    def score(self, block: Block) -> pl.DataFrame:
        """The block function: one row for each of the block's."""


class Job(Protocol):
    """A description that can be sent to another process and opened there."""

    @property
    def manifest(self) -> JobManifest:
        """What the job is."""

    def prepare(self, version: str, output: Output, report: UnitReport, reporter: Reporter) -> None:
        """Once, before any unit is read: put the input in order, where it needs that."""

    def open(self, version: str, output: Output) -> Scorer[Any]:
        """Load the version's edition."""


Tick = Callable[[int], None]


class Engine(Protocol):
    """Something that scores the units of a job, in any order and place."""

    def __call__(
        self, job: Job, units: Sequence[int], *, version: str, output: Output, tick: Tick
    ) -> Iterable[UnitReport]:
        """Score `units` into `output`; `tick` is told of the rows of each block."""


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        rows: in the output.
        scored: rows that this run added; the rest was there.
        rejected: inputs that were left out, in `rejects.jsonl`.
    """

    out: str
    version: str
    rows: int
    scored: int
    parts: int
    rejected: int
    counts: dict[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "out": self.out,
            "version": self.version,
            "rows": self.rows,
            "scored": self.scored,
            "parts": self.parts,
            "rejected": self.rejected,
            "rejects": f"{self.out.rstrip('/')}/{REJECTS}" if self.rejected else None,
            **self.counts,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.scored / self.seconds, 1) if self.seconds else 0.0,
        }


def score(
    job: Job,
    output: Output,
    *,
    engine: Engine,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Summary:
    """Score a whole job; one that was killed goes on, one that is complete does nothing.

    Raises:
        ValueError: the folder holds something else, or nothing of the input could be read.
    """
    reporter = reporter or Silent()
    began = time.perf_counter()
    with output.locked():
        manifest = output.begin(job.manifest, overwrite=overwrite)
        if manifest.summary is not None:
            reporter.say(f"{output.url} is complete: nothing to do")
            return _summary(output, manifest, manifest.summary, scored=0, began=began)
        finished = output.finished()
        if PREPARATION not in finished:
            finished[PREPARATION] = _prepare(job, manifest.version, output, reporter)
        left = [unit for unit in range(manifest.units) if unit not in finished]
        done = manifest.units - len(left)
        if there := len(output.parts()):
            reporter.say(
                f"going on with version {manifest.version}: {there:,} parts are there, "
                f"{done:,} of {manifest.units:,} units are complete"
            )
        scored = ticked = 0
        with reporter.bar(f"scoring {manifest.model}", manifest.units) as bar:
            bar.advance(done)

            def tick(rows: int) -> None:
                nonlocal ticked
                ticked += rows
                bar.advance(0, f"{ticked:,} rows")

            for report in engine(job, left, version=manifest.version, output=output, tick=tick):
                scored += report.scored
                finished[report.unit] = report.model_copy(update={"rejects": []})
                bar.advance(1)
        totals = _totals(finished.values())
        if not totals["rows"] and totals["rejected"]:
            raise ValueError(_nothing_read(output))
        output.complete(manifest, totals)
        return _summary(output, manifest, totals, scored=scored, began=began)


def in_process(
    job: Job, units: Sequence[int], *, version: str, output: Output, tick: Tick
) -> Iterator[UnitReport]:
    """The default engine: one unit after the other, here."""
    if not units:
        return
    scorer, there = job.open(version, output), output.parts()
    for unit in units:
        yield score_unit(scorer, unit, output, there=there, tick=tick)


def score_unit(
    scorer: Scorer[Block], unit: int, output: Output, *, there: set[str], tick: Tick
) -> UnitReport:
    """Write the parts of a unit that are not `there`, and its report."""
    report = UnitReport(unit=unit)
    for number, block in enumerate(scorer.read(unit, report)):
        name = f"part-{unit:06}-{number:06}.parquet"
        if name not in there:
            output.write_table(name, scorer.score(block))
            report.scored += len(block)
            tick(len(block))
        report.parts += 1
        report.rows += len(block)
    output.finish_unit(report)
    return report


def _prepare(job: Job, version: str, output: Output, reporter: Reporter) -> UnitReport:
    report = UnitReport(unit=PREPARATION)
    output.remove(STAGED)  # what a run left that was killed meanwhile
    job.prepare(version, output, report, reporter)
    output.finish_unit(report)
    return report.model_copy(update={"rejects": []})


def _totals(reports: Iterable[UnitReport]) -> dict[str, Any]:
    totals: dict[str, Any] = {"rows": 0, "parts": 0, "rejected": 0, "counts": {}}
    for report in reports:
        totals["rows"] += report.rows
        totals["parts"] += report.parts
        totals["rejected"] += report.rejected
        for name, n in report.counts.items():
            totals["counts"][name] = totals["counts"].get(name, 0) + n
    return totals


def _summary(
    output: Output, manifest: JobManifest, totals: dict[str, Any], *, scored: int, began: float
) -> Summary:
    return Summary(
        out=output.url,
        version=manifest.version,
        scored=scored,
        seconds=time.perf_counter() - began,
        **totals,
    )


def _nothing_read(output: Output) -> str:
    first = next((reject for reject in output.rejects()), None)
    why = f": {first.file}: {first.reason}" if first else ""
    return f"nothing of the input could be read{why}"
