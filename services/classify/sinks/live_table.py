"""A table on the terminal that says how the stream goes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from feature_store.editions.traffic import UNKNOWN
from services.classify.counts import StreamCounts
from services.classify.policy import Shed
from services.classify.verdict import Verdict

REFRESH_S = 0.25
RATE_WINDOW_S = 10.0
RECENT = 8
BAR = 24


class LiveTable:
    """Flows a second, class mix, unknown share, latency and shedding, redrawn as they change.

    On a terminal it is redrawn in place; elsewhere it is printed once, at the end.

    Args:
        pending: says what has no final verdict yet.
    """

    def __init__(
        self,
        counts: StreamCounts,
        console: Console,
        *,
        title: str,
        pending: Callable[[], str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._pending = pending
        self._console = console
        self._title = title
        self._monotonic = monotonic
        self._recent: deque[Verdict] = deque(maxlen=RECENT)
        self._confidence: defaultdict[str, float] = defaultdict(float)  # summed
        self._rates = deque([(monotonic(), counts.flows)])
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`."""
        for verdict in verdicts:
            if verdict.final:
                self._recent.append(verdict)
                self._confidence[verdict.label] += verdict.confidence
        now = self._monotonic()
        if now - self._drawn >= REFRESH_S:
            self._drawn = now
            self._rates.append((now, self._counts.flows))
            while now - self._rates[0][0] > RATE_WINDOW_S:
                self._rates.popleft()
            if self._live:
                self._live.update(self._group(), refresh=True)

    def close(self) -> None:
        """See `Sink`."""
        self._rates.append((self._monotonic(), self._counts.flows))
        if self._live:
            self._live.update(self._group(), refresh=True)
        else:
            self._console.print(self._group())

    def _group(self) -> Group:
        return Group(self._mix(), self._newest(), self._status())

    def _mix(self) -> Table:
        labels = self._counts.labels
        total = max(sum(labels.values()), 1)
        table = Table("class", "flows", "share", "", "mean confidence", title=self._title)
        for label, count in labels.most_common():
            table.add_row(
                f"[dim]{label}[/dim]" if label == UNKNOWN else label,
                f"{count:,}",
                f"{count / total:.1%}",
                "█" * round(BAR * count / total),
                f"{self._confidence[label] / count:.2f}",
            )
        return table

    def _newest(self) -> Table:
        table = Table("newest verdicts", "class", "confidence", "after", box=None, padding=(0, 1))
        for verdict in reversed(self._recent):
            table.add_row(
                str(verdict.flow),
                verdict.label,
                f"{verdict.confidence:.2f}",
                f"{verdict.packet} packets, {verdict.reason}",
            )
        return table

    def _status(self) -> str:
        counts = self._counts
        unknown = counts.labels[UNKNOWN] / max(counts.final, 1)
        shed = ", ".join(f"{counts.shed[each]:,} {each}" for each in Shed if counts.shed[each])
        return (
            f"{self._flows_per_s():,.1f} flows/s   {counts.flows:,} flows, {self._pending()}   "
            f"unknown {unknown:.1%}   "
            f"latency p50 {counts.latency_ms(0.5):.1f} ms, p99 {counts.latency_ms(0.99):.1f} ms   "
            f"shed: {(shed or 'nothing').replace('_', ' ')}"
        )

    def _flows_per_s(self) -> float:
        if len(self._rates) < 2 or self._rates[-1][0] == self._rates[0][0]:
            return 0.0
        (then, before), (now, after) = self._rates[0], self._rates[-1]
        return (after - before) / (now - then)
