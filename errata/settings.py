"""What the environment says, read once at the front door and passed on explicitly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from feature_store.pseudonyms import Pseudonyms


class Settings(BaseSettings):
    """What the environment says, each as `ERRATA_` and the name in capitals.

    Attributes:
        home: where the registry, the embedded Redis, logs and caches live.
        redis_url: a running server (`redis://`, `rediss://`, `unix://`); without one an embedded
            server is started under `home`.
        user_key: file with the secret that makes pseudonyms of users' ids; without one they are
            kept as they are sent.
        api_keys: file of the API keys that the service asks for; without one it asks for none.
        log_format: `text`, or `json` for one object a line.
        log_level: `info` also logs every request.
        registry_url: where versions live: a path or an fsspec URL; `home/registry` by default.
    """

    model_config = SettingsConfigDict(env_prefix="ERRATA_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".errata")
    redis_url: str | None = None
    registry_url: str | None = None
    user_key: Path | None = None
    api_keys: Path | None = None
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "warning"

    def of_demo(self) -> Settings:
        """The demo's own home and registry: it must not mix with a user's data. In a Redis that is
        named it has a tenant of its own."""
        return self.model_copy(
            update={"home": self.home / "demo", "registry_url": None, "user_key": None}
        )

    @property
    def pseudonyms(self) -> Pseudonyms | None:
        """What names users; None: they are named as they are.

        Raises:
            FileNotFoundError, ValueError: the file of the secret is missing, or holds none.
        """
        from feature_store.pseudonyms import Pseudonyms

        return None if self.user_key is None else Pseudonyms.read(self.user_key)

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
