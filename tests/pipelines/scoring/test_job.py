from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from pipelines.progress import Reporter
from pipelines.scoring.job import in_process, score
from pipelines.scoring.output import JobManifest, Output, UnitReport


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Numbers:
    """Units of numbers, which are their own rows; dies after some blocks."""

    units: int = 3
    version: str = "v1"
    dies_after: int = 10**9
    prepared: int = 0
    scored: list[int] = field(default_factory=list)

    @property
    def manifest(self) -> JobManifest:
        return JobManifest(
            kind="numbers", model="m", reference="champion", version=self.version,
            settings={}, inputs=(), units=self.units, code_version="1",
        )  # fmt: skip

    def prepare(self, version: str, output: Output, report: UnitReport, reporter: Reporter) -> None:
        del version, output, reporter
        self.prepared += 1
        report.reject("input", "no number", row=7)

    def open(self, version: str, output: Output) -> "Numbers":
        del version, output
        return self

    def read(self, unit: int, report: UnitReport) -> Iterator[range]:
        report.count("odd", unit % 2)
        yield range(10 * unit, 10 * unit + 4)
        yield range(10 * unit + 4, 10 * unit + 6)

    def score(self, block: range) -> pl.DataFrame:
        if len(self.scored) == self.dies_after:
            raise Killed
        self.scored.append(block.start)
        return pl.DataFrame({"n": list(block)})


def numbers(out: Path) -> list[int]:
    return sorted(pl.read_parquet(out / "*.parquet")["n"].to_list())


EXPECTED = sorted(10 * unit + n for unit in range(3) for n in range(6))


@pytest.mark.parametrize("dies_after", range(6))
def test_a_killed_job_scores_only_what_is_missing(tmp_path, dies_after):
    output = Output(str(tmp_path))
    with pytest.raises(Killed):
        score(first := Numbers(dies_after=dies_after), output, engine=in_process)
    assert output.manifest().summary is None
    second = Numbers(version="a newer one")
    summary = score(second, output, engine=in_process)
    assert sorted(first.scored + second.scored) == [0, 4, 10, 14, 20, 24]
    assert numbers(tmp_path) == EXPECTED
    assert (summary.rows, summary.parts, summary.version) == (18, 6, "v1")
    assert summary.scored == sum(4 if start % 10 == 0 else 2 for start in second.scored)
    assert (summary.rejected, summary.counts, second.prepared) == (1, {"odd": 1}, 0)
    assert sorted(path.name for path in tmp_path.iterdir() if "part" not in path.name) == [
        "_manifest.json",
        "rejects.jsonl",
    ]


def test_a_complete_job_does_nothing_and_tells_the_same(tmp_path):
    score(Numbers(), Output(str(tmp_path)), engine=in_process)
    again = Numbers()
    summary = score(again, Output(str(tmp_path)), engine=in_process)
    assert (summary.rows, summary.scored, again.scored) == (18, 0, [])


def test_another_job_is_refused_until_it_is_told_to_overwrite(tmp_path):
    score(Numbers(), Output(str(tmp_path)), engine=in_process)
    with pytest.raises(ValueError, match=r"another job \(its units differ\).*--overwrite"):
        score(Numbers(units=1), Output(str(tmp_path)), engine=in_process)
    score(Numbers(units=1), Output(str(tmp_path)), engine=in_process, overwrite=True)
    assert numbers(tmp_path) == list(range(6))


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear reader")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        score(Numbers(), Output(str(tmp_path)), engine=in_process)
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        score(Numbers(), Output(str(tmp_path)), engine=in_process, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    output = Output(str(tmp_path))
    with output.locked(), pytest.raises(ValueError, match="another process"):
        score(Numbers(), Output(str(tmp_path)), engine=in_process)
    score(Numbers(), output, engine=in_process)


def test_a_half_written_file_is_no_part(tmp_path):
    (tmp_path / "out").mkdir()
    output = Output(str(tmp_path / "out"))
    with pytest.raises(Killed):
        score(Numbers(dies_after=1), output, engine=in_process)
    (tmp_path / "out" / "part-000000-000001.parquet.abc123.tmp").write_bytes(b"PAR1")
    score(Numbers(), output, engine=in_process)
    assert numbers(tmp_path / "out") == EXPECTED
