"""What one published version is made of, and how to tell that it is whole."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from feature_store.pacing import Pause, no_pause

MANIFEST_NAME = "manifest.json"
_CHUNK_BYTES = 1 << 20


class FileEntry(BaseModel):
    """Size and SHA-256 of one file of a version."""

    model_config = ConfigDict(frozen=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path, *, pause: Pause = no_pause) -> FileEntry:
        """Measure `path`; `pause` is called now and then."""
        digest = hashlib.sha256()
        size = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                pause()
        return cls(bytes=size, sha256=digest.hexdigest())


class Manifest(BaseModel):
    """The identity card of a version: what made it, from what, how good it is, its files."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    model: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    version: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    created_at: datetime
    code_version: str
    data_fingerprint: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    # Which key named the users of the data; None: they were named as they were sent.
    user_key: str | None = None
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name == MANIFEST_NAME:
                raise ValueError(f"'{name}' is no file of a version")
        return files

    def problems(self, directory: Path, *, pause: Pause = no_pause) -> list[str]:
        """Why the files in `directory` are not what was published; empty when they are."""
        found: list[str] = []
        for name, expected in sorted(self.files.items()):
            path = directory / name
            if not path.is_file():
                found.append(f"{name}: missing")
            elif (size := path.stat().st_size) != expected.bytes:
                found.append(f"{name}: {size} bytes, published with {expected.bytes}")
            elif (actual := FileEntry.of(path, pause=pause).sha256) != expected.sha256:
                found.append(f"{name}: SHA-256 {actual[:12]}…, published {expected.sha256[:12]}…")
        return found
