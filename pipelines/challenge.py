"""Champion against challenger on the same recent window, and what follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Rule = Literal["certain", "mean"]


@dataclass(frozen=True)
class Window:
    """What both answered.

    Attributes:
        cases: users, or flows. begins: the first one's time, ISO 8601, where there are times.
        champion_saw_it: whether the champion was trained on it, as far as is known.
    """

    cases: int
    begins: str | None
    champion_saw_it: str


@dataclass(frozen=True)
class Challenge:
    """How a newly trained version did against the one that serves.

    Attributes:
        metric: higher is better. champion, challenger: its values; None without a champion.
        low, high: 95 % interval of the paired difference.
        promote: whether the challenger is better by the rule. reason: one sentence.
    """

    metric: str
    challenger_version: str
    champion_version: str | None
    challenger: float
    champion: float | None
    difference: float
    low: float
    high: float
    window: Window
    promote: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self)


def decide(
    *,
    metric: str,
    challenger_version: str,
    champion_version: str | None,
    challenger: float,
    champion: float | None,
    difference: float,
    interval: tuple[float, float],
    window: Window,
    margin: float,
    rule: Rule,
) -> Challenge:
    """Promote where the difference, or with `certain` its interval, is above `margin`."""
    low, high = interval
    if champion is None:
        promote, reason = True, "there was no champion to compare with"
    else:
        reached = low if rule == "certain" else difference
        promote = reached > margin
        what = f"{metric} {difference:+.4f} [{low:+.4f}, {high:+.4f}]"
        asked = f"{'the interval' if rule == 'certain' else 'it'} must be above {margin:g}"
        reason = f"{what}: {'better' if promote else f'not better, {asked}'}"
    return Challenge(
        metric, challenger_version, champion_version, challenger, champion, difference, low, high,
        window, promote, reason,
    )  # fmt: skip


def seen_by(trained_until: str | None, begins: str | None, *, held_out: bool) -> str:
    """Whether a version was trained on a window that begins at `begins` (ISO 8601, UTC)."""
    if held_out:
        return "no: its own split held it out"
    if trained_until is None or begins is None:
        return "unknown: its training's end is not recorded"
    if trained_until <= begins:
        return f"no: it was trained until {trained_until}"
    return f"in part: it was trained until {trained_until}; its figure is too good"
