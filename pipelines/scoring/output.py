"""The folder that a job's rows appear in: whole parts, what is done, and what could not be read."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from feature_store.storage import is_local, open_storage
from pipelines.scoring.inputs import InputFile

MANIFEST, DONE, STAGED, REJECTS = "_manifest.json", "_done", "_staged", "rejects.jsonl"
PREPARATION = -1  # what is left out before there are units
NAMED_REJECTS = 10_000  # of a unit; more are only counted


class Reject(BaseModel):
    """Something that was left out: the file, its row or record where that is known, and why."""

    model_config = ConfigDict(frozen=True)

    file: str
    row: int | None = None
    reason: str


class UnitReport(BaseModel):
    """What became of one unit of a job; kept when all its parts are there.

    Attributes:
        rows: written, in all its parts.
        scored: rows that the run which finished it added; the others were there.
        counts: what the scorer counts besides, summed up over the units.
        rejected: how many were left out; `rejects` names the first of them.
    """

    unit: int
    parts: int = 0
    rows: int = 0
    scored: int = 0
    counts: dict[str, int] = {}
    rejected: int = 0
    rejects: list[Reject] = []

    def count(self, name: str, n: int) -> None:
        """Add to one of the counts."""
        if n:
            self.counts[name] = self.counts.get(name, 0) + n

    def reject(self, file: str, reason: str, *, row: int | None = None) -> None:
        """Leave something out."""
        self.rejected += 1
        if len(self.rejects) < NAMED_REJECTS:
            self.rejects.append(Reject(file=file, row=row, reason=reason))


class JobManifest(BaseModel):
    """What a job is, written before its first part; `summary` when it is complete.

    Attributes:
        reference: the version or alias that was asked for; `version` is what it stood for.
        settings: everything else that changes rows.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    model: str
    reference: str
    version: str
    settings: dict[str, Any]
    inputs: tuple[InputFile, ...]
    units: int
    code_version: str
    summary: dict[str, Any] | None = None

    def differences(self, other: JobManifest) -> list[str]:
        """Names of what makes the two different jobs; the version behind an alias does not."""
        names = ("kind", "model", "reference", "settings", "inputs", "units")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


class Output:
    """A folder on a local path or an fsspec URL.

    Layout: `part-UNIT-BLOCK.parquet` are the rows; `_manifest.json` says of what; `_done/` has the
    report of each unit that is complete; `rejects.jsonl` is written last. A part is written
    elsewhere and moved to its name, so that one that is there is whole: it is its own mark.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = open_storage(url)
        self._is_local = is_local(self.fs)

    def begin(self, manifest: JobManifest, *, overwrite: bool = False) -> JobManifest:
        """Take the folder for a job, or go on with the one that it holds.

        Returns:
            the manifest that counts: the folder's own, where it holds this job.

        Raises:
            ValueError: it holds another job, or files that are no job's.
        """
        if overwrite:
            self._empty()
        before = self.manifest()
        if before is None:
            if strangers := self.names(""):
                raise ValueError(
                    f"{self.url} holds {strangers[0]} and no job: choose an empty folder"
                )
            self.write_text(MANIFEST, manifest.model_dump_json(indent=2))
            return manifest
        if different := before.differences(manifest):
            raise ValueError(
                f"{self.url} holds another job (its {', '.join(different)} differ): choose "
                "another folder, or begin anew with --overwrite"
            )
        return before

    def manifest(self) -> JobManifest | None:
        """Of the job that the folder holds, or None.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            return JobManifest.model_validate_json(self.fs.cat_file(self._path(MANIFEST)))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ValueError(
                f"{self._path(MANIFEST)} is unreadable: begin anew with --overwrite"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time writes a local folder; an object store has no lock.

        Raises:
            ValueError: another process has it.
        """
        if not self._is_local:
            yield
            return
        Path(self.root).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root, os.O_RDONLY)  # the folder itself: no file stays behind
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ValueError(f"another process is writing {self.url}") from error
        finally:
            os.close(descriptor)

    def names(self, folder: str) -> list[str]:
        """Names in a folder of the output, those of half-written files left out."""
        try:
            listed = self.fs.ls(self._path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(each).rstrip("/").rsplit("/", 1)[1] for each in listed)
        return sorted(name for name in names if not name.endswith(".tmp"))

    def parts(self) -> set[str]:
        """Names of the parts that are there."""
        return {name for name in self.names("") if name.startswith("part-")}

    def read_tables(self, prefix: str, names: list[str]) -> Iterator[pl.DataFrame]:
        """Tables that `write_table` wrote."""
        for name in names:
            if self._is_local:
                yield pl.read_parquet(self._path(f"{prefix}/{name}"), glob=False)
            else:
                yield pl.read_parquet(io.BytesIO(self.fs.cat_file(self._path(f"{prefix}/{name}"))))

    def write_table(self, name: str, table: pl.DataFrame) -> None:
        """Write one Parquet file, whole or not at all."""
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        self._write(name, buffer.getbuffer())

    def write_text(self, name: str, text: str) -> None:
        """Write one text file, whole or not at all."""
        self._write(name, text.encode())

    def finish_unit(self, report: UnitReport) -> None:
        """Say that all parts of a unit are there."""
        self.write_text(f"{DONE}/{report.unit:07}.json", report.model_dump_json())

    def finished(self) -> dict[int, UnitReport]:
        """Reports of the units that are complete, without the rejects that each one names."""
        return {report.unit: report for report in self._reports(with_rejects=False)}

    def complete(self, manifest: JobManifest, summary: dict[str, Any]) -> None:
        """Put the rejects together, drop what only a resumption needs, and say that it is done."""
        if summary["rejected"]:
            self._join_rejects()
        self.write_text(
            MANIFEST, manifest.model_copy(update={"summary": summary}).model_dump_json(indent=2)
        )
        self.remove(DONE)
        self.remove(STAGED)

    def remove(self, folder: str) -> None:
        """Drop a folder of the output."""
        if self.fs.exists(self._path(folder)):
            self.fs.rm(self._path(folder), recursive=True)

    def _reports(self, *, with_rejects: bool) -> Iterator[UnitReport]:
        for name in self.names(DONE):
            report = UnitReport.model_validate_json(self.fs.cat_file(self._path(f"{DONE}/{name}")))
            if not with_rejects:
                report.rejects.clear()
            yield report

    def rejects(self) -> Iterator[Reject]:
        """What the units left out so far."""
        for report in self._reports(with_rejects=True):
            yield from report.rejects

    def _join_rejects(self) -> None:
        with self.fs.open(self._path(REJECTS), "wb") as out:
            for reject in self.rejects():
                line = json.dumps(reject.model_dump(exclude_none=True), ensure_ascii=False)
                out.write(line.encode() + b"\n")

    def _empty(self) -> None:
        """Remove a job's files; nothing else is touched."""
        for name in self.names(""):
            if name in (MANIFEST, DONE, STAGED, REJECTS) or name.startswith("part-"):
                self.fs.rm(self._path(name), recursive=True)

    def _write(self, name: str, content: bytes | memoryview) -> None:
        path = self._path(name)
        if not self._is_local:  # an object store's put is atomic by itself
            self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self.fs.pipe_file(path, bytes(content))
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(f"{path}.{uuid4().hex[:6]}.tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else str(self.root)
