"""What a serving process needs to know."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from feature_store.editions.recommender import MODEL_NAME


class ServeSettings(BaseModel):
    """Passed to `create_app`; nothing below reads the environment.

    Attributes:
        registry: root of the registry.
        redis_url: a running server.
        offline: directory of the feedback log and of the spool.
        model: name in the registry.
        alias: which version serves.
        tenant: prefix of the keys in Redis.
        device: where the index lives.
        refresh_s: how often the alias and Redis are looked at.
        code_version: shown in the OpenAPI document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str
    redis_url: str
    offline: Path
    model: str = MODEL_NAME
    alias: str = "champion"
    tenant: str = "default"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    refresh_s: float = Field(1.0, gt=0)
    code_version: str = "unknown"
