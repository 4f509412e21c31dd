"""What the error memories hold: at a glance, over time, and the entries that speak loudest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import redis
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

from feature_store.error_memory.course import CoursePoint, course
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.remembered import Remembered
from feature_store.error_memory.usage import Usage
from feature_store.registry import Registry
from services.dashboard.versions import Model
from services.problems import ProblemError

Memories = Callable[[], Sequence[Remembered]]
# Versions before the one that serves whose course is shown too.
_EARLIER = 3
VersionName = Annotated[
    str | None, Query(max_length=128, description="Of those that serve; else the first.")
]


class MemoryOfVersion(BaseModel):
    """What the memory of a served version holds; see `errata memory stats`."""

    model: str
    title: str = Field(description="What is served, where one model serves several.")
    version: str
    entries: int = Field(description="Kept one by one.")
    written: int = Field(description="Outcomes that were ever counted.")
    capacity: int
    rejected: int
    reads: int = Field(description="Predictions that all replicas looked up.")
    hits: int = Field(description="Of them, those that a remembered error was near.")
    gate_open: bool = Field(description="Whether corrections are applied.")
    probation: float = Field(description="Outcomes before the gate opens at all.")
    enabled: bool
    fresh: bool = Field(description="Whether Redis answers: without it the memory is frozen.")
    excess_loss: float = Field(description="Corrected log loss minus the model's; below 0 helps.")
    weights: dict[str, float] = Field(description="How much each estimate is listened to.")
    bytes: int
    drift: dict[str, Any] | None = Field(
        None,
        description="What the drift detector says, where one runs: mean `error` of the model over "
        "the last `entries`, how often it rose (`rises`), and the entry of the `last_rise`.",
    )


class MemoriesFound(BaseModel):
    """The memories of the versions that serve."""

    memories: list[MemoryOfVersion]


class Point(BaseModel):
    """Some outcomes that followed each other; losses are means of log losses."""

    version: str
    time_ms: int
    outcomes: int
    before: float = Field(description="Of the model's own prediction.")
    after: float = Field(description="Of the corrected one.")


class Mark(BaseModel):
    """A version that was published within the time that is shown."""

    time_ms: int
    version: str


class CourseFound(BaseModel):
    """The error over time, oldest first, over a model's versions."""

    points: list[Point]
    retrained: list[Mark]


class Entry(BaseModel):
    """One remembered error."""

    about: str | None
    predicted: str
    outcome: str
    influence: float = Field(description="How far it alone moves a prediction at its place.")
    age: int = Field(description="Entries since.")
    time_ms: int
    source: str = Field(description="A hash of who said so.")
    feedback: str | None = Field(description="A hash that names the entry.")


class EntriesFound(BaseModel):
    """The entries that speak loudest, the loudest first."""

    version: str
    entries: list[Entry]


def add_routes(app: FastAPI, registry: Registry, memories: Memories, usage: Usage) -> None:
    """Add the routes."""
    courses = _Courses()

    @app.get("/v1/memory", tags=["correct"])
    def memory() -> MemoriesFound:
        """What the versions that serve got wrong lately, at a glance."""
        return MemoriesFound(memories=[_of(each, usage) for each in memories()])

    @app.get("/v1/memory/{model}/course", tags=["correct"])
    def course_of(model: Model, version: VersionName = None) -> CourseFound:
        """How wrong the model was over time, before and after correction."""
        served = chosen(memories, model, version)
        published = registry.versions(model)
        names = [each.version for each in published]
        place = names.index(served.version) if served.version in names else len(names)
        shown = [*names[max(place - _EARLIER, 0) : place], served.version]
        client = served.log.client
        try:
            points = [
                Point(version=name, **asdict(point))
                for name in shown
                for point in courses.of(
                    MemoryLog(client, model=model, version=name, tenant=served.tenant)
                )
            ]
        except redis.RedisError as error:
            raise _away() from error
        points.sort(key=lambda point: point.time_ms)
        marks = [
            Mark(time_ms=int(each.created_at.timestamp() * 1e3), version=each.version)
            for each in published
        ]
        begin = points[0].time_ms if points else 0
        return CourseFound(
            points=points, retrained=[mark for mark in marks if points and mark.time_ms >= begin]
        )

    @app.get("/v1/memory/{model}/entries", tags=["correct"])
    def entries(
        model: Model, version: VersionName = None, k: Annotated[int, Query(ge=1, le=200)] = 12
    ) -> EntriesFound:
        """The remembered errors that speak loudest now."""
        served = chosen(memories, model, version)
        found = served.replica.memory.influential(k)
        return EntriesFound(
            version=served.version,
            entries=[
                Entry(
                    about=words.about,
                    predicted=words.predicted,
                    outcome=words.outcome,
                    influence=round(float(found.influence[row]), 5),
                    age=int(found.ages[row]),
                    time_ms=int(found.time_ms[row]),
                    source=f"{int(found.sources[row]):016x}",
                    feedback=f"{int(found.feedback_ids[row]):016x}"
                    if found.feedback_ids[row]
                    else None,
                )
                for row, words in enumerate(served.describe(found))
            ],
        )


def chosen(memories: Memories, model: str, version: str | None) -> Remembered:
    """The memory that is meant.

    Raises:
        HTTPException: 404, none such serves.
    """
    serving = [each for each in memories() if each.model == model]
    for each in serving:
        if version in (None, each.version):
            return each
    names = ", ".join(each.version for each in serving) or "none"
    wanted = model if version is None else f"{model} {version}"
    raise HTTPException(404, f"no memory of '{wanted}' serves here; of '{model}' there is: {names}")


def _of(each: Remembered, usage: Usage) -> MemoryOfVersion:
    memory = each.replica.memory
    stats = asdict(memory.stats())
    with suppress(redis.RedisError):  # what this process did is still known
        stats |= asdict(usage.together(each))
    watch = getattr(each.replica, "drift", None)
    if is_dataclass(watch) and not isinstance(watch, type):
        stats["drift"] = asdict(watch)
    return MemoryOfVersion(
        model=each.model,
        title=each.title,
        version=each.version,
        fresh=each.replica.fresh,
        probation=memory.policy.probation,
        **stats,
    )


def _away() -> ProblemError:
    return ProblemError(
        status=503,
        title="Redis is unreachable",
        detail="the stream of outcomes is kept there; corrections go on from what was read",
    )


class _Courses:
    """The courses that were asked for last: a stream is read again when it has grown."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, list[CoursePoint]]] = {}
        self._lock = threading.Lock()

    def of(self, log: MemoryLog) -> list[CoursePoint]:
        position = log.position()
        with self._lock:
            known = self._known.get(log.key)
            if known is None or known[0] != position:
                while len(self._known) >= 16:
                    self._known.pop(next(iter(self._known)))
                known = self._known[log.key] = (position, course(log) if position else [])
            return known[1]
