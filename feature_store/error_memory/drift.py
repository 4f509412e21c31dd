"""Whether a version's errors have changed: ADWIN on the error stream.

errata:TENANT:drift:MODEL    the last alarm, until somebody has dealt with it
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
import redis
from numpy.typing import NDArray

from feature_store.error_memory.batch import ErrorBatch

log = logging.getLogger(__name__)

# Entries that make one value: outcomes come in bursts, and a look costs as much as many of them.
BLOCK = 32


class Adwin:
    """ADWIN (Bifet and Gavaldà, 2007): a window that shrinks when its mean has changed.

    The window is an exponential histogram: row k holds up to `max_buckets` buckets of 2^k units,
    each as (sum, sum of squared deviations). Where two parts of it differ by more than chance at
    confidence 1 - delta allows, the older part is dropped.

    Example:
        >>> adwin = Adwin()
        >>> any([adwin.update(0.1) for _ in range(300)])
        False
        >>> any([adwin.update(0.9) for _ in range(300)])
        True
    """

    def __init__(
        self,
        delta: float = 0.002,
        *,
        clock: int = 32,
        max_buckets: int = 5,
        min_window: int = 5,
        grace: int = 10,
        unit: int = 1,
    ) -> None:
        """`clock`: a look every so many updates; `min_window`: values in the parts that are
        compared; `grace`: values before the first look; `unit`: values of one update."""
        self._delta, self._clock, self._max = delta, clock, max_buckets
        self._least, self._grace, self._unit = min_window, grace, unit
        self._rows: list[list[tuple[float, float]]] = [[]]  # newest first; a row's oldest first
        self._ticks = 0
        self.width = 0
        self._total = self._variance = 0.0

    @property
    def mean(self) -> float:
        """Of the window; 0 of none."""
        return self._total / self.width if self.width else 0.0

    def update(self, value: float, variance: float = 0.0) -> bool:
        """Add `unit` values by their mean and variance; True when the window shrank."""
        n, squares = self._unit, variance * self._unit
        if self.width:
            gap = value - self._total / self.width
            self._variance += self.width * n * gap * gap / (self.width + n)
        self._variance += squares
        self.width += n
        self._total += value * n
        self._rows[0].append((value * n, squares))
        self._compress()
        self._ticks += 1
        if self._ticks % self._clock or self.width <= self._grace:
            return False
        shrank = False
        while self._cut():
            shrank = True
        return shrank

    def _compress(self) -> None:
        for k, row in enumerate(self._rows):
            if len(row) <= self._max:
                return
            (sum_a, var_a), (sum_b, var_b) = row[0], row[1]
            del row[:2]
            n = self._unit * 2**k
            gap = (sum_a - sum_b) / n
            if k + 1 == len(self._rows):
                self._rows.append([])
            self._rows[k + 1].append((sum_a + sum_b, var_a + var_b + n * gap * gap / 2))

    def _cut(self) -> bool:
        """Drop the oldest bucket if some older part differs from the rest."""
        n0, sum0 = 0, 0.0
        bound = 2.0 * math.log(2 * math.log(self.width) / self._delta)
        spread = self._variance / self.width
        for k in range(len(self._rows) - 1, -1, -1):
            for total, _ in self._rows[k]:
                n0 += self._unit * 2**k
                sum0 += total
                n1 = self.width - n0
                if n1 < self._least:
                    return False
                if n0 < self._least:
                    continue
                m = 1 / (n0 - self._least + 1) + 1 / (n1 - self._least + 1)
                epsilon = math.sqrt(bound * m * spread) + bound * m / 3
                if abs(sum0 / n0 - (self._total - sum0) / n1) > epsilon:
                    self._drop()
                    return True
        return False

    def _drop(self) -> None:
        k = len(self._rows) - 1
        total, variance = self._rows[k].pop(0)
        n = self._unit * 2**k
        self.width -= n
        self._total -= total
        rest = self._total / self.width if self.width else 0.0
        gap = total / n - rest
        self._variance -= variance + n * self.width * gap * gap / (n + self.width)
        self._variance = max(self._variance, 0.0)
        while len(self._rows) > 1 and not self._rows[-1]:
            self._rows.pop()


@dataclass(frozen=True)
class DriftStats:
    """The error stream at a glance.

    Attributes:
        error: mean error of the model itself in the present window; 0 to 1.
        entries: in that window.
        rises, falls: how often the error went up or down, over all the entries that are kept.
        last_rise: number of the entry at which the last rise was found, or None.
    """

    error: float
    entries: int
    rises: int
    falls: int
    last_rise: int | None


@dataclass(frozen=True)
class Alarm:
    """The model's errors became more.

    Attributes:
        before, after: mean error before and since. position: entries up to the one that told.
    """

    before: float
    after: float
    position: int


class ErrorWatch:
    """Follows what the model itself gets wrong: 1 - p of the true class, or |label - score|.

    Scores' errors are followed apart for what was taken and what was left. What was taken is known
    at once and what was left half an hour later, so with the traffic the mix of the two changes,
    and its mean with it, while the model is as good as before.

    What it says depends on the entries alone: every replica says the same.
    """

    def __init__(self, *, delta: float = 0.002) -> None:
        self._courses = [_Course(delta / 2), _Course(delta / 2)]
        self._rises = self._falls = 0
        self._last_rise: int | None = None

    def see(self, batch: ErrorBatch, position: int) -> Alarm | None:
        """Entries up to `position`; the last rise that they tell of, if any."""
        alarm = None
        errors = errors_of(batch)
        taken = np.ones(len(errors), bool)
        if batch.labels.shape[1] == 1:
            taken = batch.labels[:, 0] >= 0.5
        for course, rows in zip(self._courses, (taken, ~taken), strict=True):
            for before, after in course.see(errors[rows]):
                if after > before:
                    self._rises, self._last_rise = self._rises + 1, position
                    alarm = Alarm(before, after, position)
                else:
                    self._falls += 1
        return alarm

    def stats(self) -> DriftStats:
        """See `DriftStats`."""
        entries = sum(each.entries for each in self._courses)
        total = sum(each.mean * each.entries for each in self._courses)
        mean = total / entries if entries else 0.0
        return DriftStats(mean, entries, self._rises, self._falls, self._last_rise)


class _Course:
    """The errors of one kind of entry, in blocks."""

    def __init__(self, delta: float) -> None:
        self._adwin = Adwin(delta, clock=1, unit=BLOCK)
        self._left: NDArray[np.float64] = np.empty(0)

    @property
    def mean(self) -> float:
        """Of the present window."""
        return self._adwin.mean

    @property
    def entries(self) -> int:
        """In the present window, and those that make no block yet."""
        return self._adwin.width + len(self._left)

    def see(self, errors: NDArray[np.float64]) -> list[tuple[float, float]]:
        """The means before and after each change that these tell of."""
        errors = np.concatenate([self._left, errors[np.isfinite(errors)]])
        whole = len(errors) // BLOCK * BLOCK
        self._left = errors[whole:]
        blocks = errors[:whole].reshape(-1, BLOCK)
        changes = []
        for value, variance in zip(
            blocks.mean(axis=1).tolist(), blocks.var(axis=1).tolist(), strict=True
        ):
            before = self._adwin.mean
            if self._adwin.update(value, variance):
                changes.append((before, self._adwin.mean))
        return changes


def errors_of(batch: ErrorBatch) -> NDArray[np.float64]:
    """(n,) the model's own error on each entry, 0 to 1."""
    if batch.labels.shape[1] == 1:
        gap: NDArray[np.float64] = np.abs(batch.labels - batch.predictions)[:, 0]
        return np.asarray(gap, np.float64)
    right = (batch.labels * batch.predictions).sum(axis=1)
    return np.asarray(np.clip(1.0 - right, 0, 1), np.float64)


class DriftFlag:
    """The last alarm of a model, for who trains. Raises `redis.RedisError` when the server is
    gone."""

    def __init__(self, client: redis.Redis, *, model: str, tenant: str = "default") -> None:
        self._client = client
        self._key = f"errata:{tenant}:drift:{model}"

    def raise_(self, version: str, alarm: Alarm) -> None:
        """Leave an alarm; every replica leaves the same."""
        self._client.set(self._key, orjson.dumps({"version": version} | asdict(alarm)))

    def read(self) -> dict[str, Any] | None:
        """The alarm: version, before, after, position."""
        raw: Any = self._client.get(self._key)
        return None if raw is None else orjson.loads(raw)

    def clear(self) -> None:
        """It has been dealt with."""
        self._client.delete(self._key)


def alarm_with(
    client: redis.Redis, *, model: str, version: str, tenant: str = "default"
) -> Callable[[Alarm], None]:
    """What a serving replica does with an alarm: a line in the log, and the flag."""
    flag = DriftFlag(client, model=model, tenant=tenant)

    def tell(alarm: Alarm) -> None:
        log.warning(
            "drift: the mean error of %s %s rose from %.3f to %.3f at entry %d; "
            "`errata retrain %s --if-drift` trains anew",
            model, version, alarm.before, alarm.after, alarm.position, model,
        )  # fmt: skip
        flag.raise_(version, alarm)

    return tell
