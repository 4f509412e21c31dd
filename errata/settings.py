"""What the environment says, read once at the front door and passed on explicitly."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """`ERRATA_HOME` and `ERRATA_REDIS_URL`.

    Attributes:
        home: where the registry, the embedded Redis, logs and caches live.
        redis_url: a running server (`redis://`, `rediss://`, `unix://`); without one an embedded
            server is started under `home`.
        registry_url: where versions live: a path or an fsspec URL; `home/registry` by default.
    """

    model_config = SettingsConfigDict(env_prefix="ERRATA_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".errata")
    redis_url: str | None = None
    registry_url: str | None = None

    def of_demo(self) -> Settings:
        """The demo's own home, registry and Redis: it must not mix with a user's data."""
        return self.model_copy(
            update={"home": self.home / "demo", "registry_url": None, "redis_url": None}
        )

    @property
    def registry(self) -> str:
        """Root of the registry."""
        return self.registry_url or str(self.home / "registry")

    @property
    def redis_directory(self) -> Path:
        """Where the embedded Redis keeps its files."""
        return self.home / "redis"

    @property
    def offline_directory(self) -> Path:
        """Where feedback is kept for the next training."""
        return self.home / "offline"
