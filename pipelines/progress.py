"""Progress of long work: bars for a person, silence for a program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more steps are done; `note` says how it goes (a loss, a count)."""


class Reporter(Protocol):
    """Where progress goes."""

    def bar(self, description: str, total: int) -> AbstractContextManager[Bar]:
        """A bar of `total` steps for the length of a `with` block."""

    def say(self, message: str) -> None:
        """One line."""


class Silent:
    """A reporter that shows nothing."""

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Bar]:  # noqa: ARG002
        """See `Reporter`."""
        yield _NoBar()

    def say(self, message: str) -> None:
        """See `Reporter`."""


class Terminal:
    """Bars and lines on standard error, so that standard output carries results alone."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Bar]:
        """See `Reporter`."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            yield _RichBar(progress, progress.add_task(description, total=total, note=""))

    def say(self, message: str) -> None:
        """See `Reporter`."""
        self._console.print(message, highlight=False)


class _NoBar:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, n: int = 1, note: str = "") -> None:
        self._progress.advance(self._task, n)
        if note:
            self._progress.update(self._task, note=note)
