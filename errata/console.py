"""How the command line speaks: tables and progress for people, JSON for programs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Reports go to standard output; progress, logs and errors never mix into it.
out = Console()
err = Console(stderr=True)
_WIDE = 10_000  # columns


def invoked_as() -> str:
    """What whoever started this program types to start it again: `errata` where the path has it,
    `.venv/bin/errata` where it was named so."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    if found is not None and Path(found).resolve() == program.resolve():
        return program.name
    if program.suffix == ".py":
        return f"{shlex.quote(sys.executable)} -m errata"
    return shlex.quote(sys.argv[0])


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_lines(table: Table) -> None:
    """A table whose rows are a line each, however narrow the output is."""
    Console(width=_WIDE).print(table)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress bars on standard error."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=False) as bars:
        yield bars
