"""What the classification endpoint needs to know."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from feature_store.online.headroom import SHARE
from services.classify.policy import LatencyBudget


class Watch(BaseModel):
    """What is classified while the service is up; `GET /v1/verdicts` tells it. See `open_source`.

    Attributes:
        interface, capture, follow, replay: where packets come from.
        budget: bounds on latency and memory.
        redis_stream: verdicts also go to this Redis Stream.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interface: str | None = None
    capture: Path | None = None
    follow: bool = False
    replay: float | None = Field(None, gt=0)
    budget: LatencyBudget = LatencyBudget()
    redis_stream: str | None = None


class ClassifySettings(BaseModel):
    """Passed to `create_app`; nothing below reads the environment.

    Attributes:
        registry: root of the registry.
        redis_url: a running server; None keeps verdicts in this process.
        redis_share: while more of Redis's memory is used no verdicts are kept for their labels.
        alias: which version classifies.
        tenant: prefix of the keys in Redis.
        labels: directory of the labels' offline log; None keeps none.
        watch: a live source, or None.
        max_upload_bytes: a larger capture is refused.
        max_unpacked_bytes: a gzipped capture that holds more is given up.
        max_uploads: captures that are classified at the same time; more are refused.
        max_received: bodies that are received at the same time; more are refused.
        stalled_s: a body of which nothing has come for so long is given up.
        max_verdicts: of one answer; what is left out is counted.
        refresh_s: how often the alias is looked at.
        code_version: shown in the OpenAPI document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str
    redis_url: str | None = None
    redis_share: float = Field(SHARE, gt=0, le=1)
    alias: str = "champion"
    tenant: str = "default"
    labels: Path | None = None
    watch: Watch | None = None
    max_upload_bytes: int = Field(64_000_000, ge=1)
    max_unpacked_bytes: int = Field(1_000_000_000, ge=1)
    max_uploads: int = Field(2, ge=1)
    max_received: int = Field(32, ge=1)
    stalled_s: float = Field(20.0, gt=0)
    max_verdicts: int = Field(10_000, ge=1)
    refresh_s: float = Field(1.0, gt=0)
    code_version: str = "unknown"
