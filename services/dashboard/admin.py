"""What an operator decides: which version serves, and what a memory forgets.

One router, for whichever application it is mounted on. Where keys are asked for, everything here
needs the scope `admin` (`services/access/middleware.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import redis
from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_store.error_memory.hashing import source_id
from feature_store.pacing import BESIDE_ANSWERS, Unhurried
from feature_store.registry import CorruptVersionError, Registry, RegistryError, UnknownVersionError
from services.dashboard.memories import Memories, chosen
from services.dashboard.versions import Model
from services.problems import ProblemError, documented

Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Promotion(_Request):
    """Which version is to serve."""

    version: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")
    alias: Alias = "champion"


class Rollback(_Request):
    """Whose last move is taken back."""

    alias: Alias = "champion"


class Moved(BaseModel):
    """Where an alias pointed, and where it points; services follow within a second."""

    model: str
    alias: str
    before: str | None
    version: str


class Forgetting(_Request):
    """What is forgotten: one entry, or all that one source said or will say."""

    version: str | None = Field(None, max_length=128, description="Of those that serve.")
    feedback: _Hash | None = Field(None, description="Of the entry, as the list of entries has it.")
    source: _Hash | None = Field(None, description="Of the source, as the list of entries has it.")
    source_name: str | None = Field(None, min_length=1, max_length=256, description="Its name.")

    @model_validator(mode="after")
    def _one(self) -> Forgetting:
        given = [self.feedback, self.source, self.source_name]
        if sum(each is not None for each in given) != 1:
            raise ValueError("give one of `feedback`, `source` and `source_name`")
        return self


class Switching(_Request):
    """Whether corrections are applied."""

    enabled: bool
    version: str | None = Field(None, max_length=128, description="Of those that serve.")


class Decided(BaseModel):
    """A decision that every replica follows within a second."""

    model: str
    version: str
    decision: Literal["forget", "cut", "on", "off"]


def router(registry: Registry, memories: Memories) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["operate"])

    @routes.post("/v1/models/{model}/promote", responses=documented(404, 409, 422, 503))
    def promote(model: Model, request: Promotion) -> Moved:
        """Let a version serve, after its files were verified."""
        before = registry.aliases(model).get(request.alias)
        try:
            pause = Unhurried(BESIDE_ANSWERS)
            registry.promote(model, request.version, alias=request.alias, pause=pause)
            version = registry.resolve(model, request.alias)
        except (RegistryError, OSError) as error:
            raise _problem(error) from error
        return Moved(model=model, alias=request.alias, before=before, version=version)

    @routes.post("/v1/models/{model}/rollback", responses=documented(404, 409, 422, 503))
    def rollback(model: Model, request: Rollback) -> Moved:
        """Let the version before the present one serve again."""
        before = registry.aliases(model).get(request.alias)
        try:
            pause = Unhurried(BESIDE_ANSWERS)
            version = registry.rollback(model, alias=request.alias, pause=pause)
        except (RegistryError, OSError) as error:
            raise _problem(error) from error
        return Moved(model=model, alias=request.alias, before=before, version=version)

    @routes.post("/v1/memory/{model}/forget", responses=documented(404, 422, 503))
    def forget(model: Model, request: Forgetting) -> Decided:
        """Cut one entry, or a source, out of every replica of a memory."""
        log = chosen(memories, model, request.version).log
        source = int(request.source, 16) if request.source is not None else None
        if request.source_name is not None:
            source = source_id(request.source_name)
        try:
            if request.feedback is not None:
                log.forget_entry(int(request.feedback, 16))
                return Decided(model=model, version=log.version, decision="cut")
            log.decide("forget", id=str(source))
        except redis.RedisError as error:
            raise _not_written() from error
        return Decided(model=model, version=log.version, decision="forget")

    @routes.post("/v1/memory/{model}/switch", responses=documented(404, 422, 503))
    def switch(model: Model, request: Switching) -> Decided:
        """Stop or resume correcting; entries are collected all the while."""
        log = chosen(memories, model, request.version).log
        decision: Literal["on", "off"] = "on" if request.enabled else "off"
        try:
            log.decide(decision)
        except redis.RedisError as error:
            raise _not_written() from error
        return Decided(model=model, version=log.version, decision=decision)

    return routes


def _problem(error: RegistryError | OSError) -> Exception:
    if isinstance(error, UnknownVersionError):
        return HTTPException(404, str(error))
    if isinstance(error, CorruptVersionError):
        return ProblemError(status=409, title="The version is not whole", detail=str(error))
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ProblemError(
        status=503,
        title="The registry cannot be changed",
        detail=f"nothing was moved: {reason}. Where this service may only read the registry, use "
        "`errata registry promote` or `rollback` from where it may be written.",
    )


def _not_written() -> ProblemError:
    return ProblemError(
        status=503,
        title="Redis is unreachable",
        detail="nothing was decided: decisions are written there; try again when it is back",
    )
