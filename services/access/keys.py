"""API keys: a file with their hashes, which a running service reads again when it changes."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

log = logging.getLogger(__name__)

Scope = Literal["read", "feedback", "admin"]
PREFIX = "errata_"
CHECK_EVERY_S = 1.0


class InvalidKeyFileError(ValueError):
    """The file is no file of keys."""


class ApiKey(BaseModel):
    """One key, of which only the hash is kept.

    A key is 256 random bits: unlike a password it cannot be guessed from its SHA-256, and needs no
    slow hash, which a request would have to wait for.

    Attributes:
        name: who holds it; shown in messages and logs.
        sha256: of the key as it is sent.
        scopes: `read` asks, `feedback` reports outcomes, `admin` changes the catalogue, reads
            metrics, and does all the others do.
        requests_per_s: a process answers so many to this key; no limit when None.
        expires: when it stops to count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    requests_per_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    expires: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether its holder may do this."""
        return scope in self.scopes or "admin" in self.scopes

    def expired(self, now: datetime) -> bool:
        """Whether its time is over; a time without a zone is UTC."""
        if self.expires is None:
            return False
        end = self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=UTC)
        return now >= end


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...] = ()

    @model_validator(mode="after")
    def _names_once(self) -> _Document:
        names = [key.name for key in self.keys]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"named twice: {', '.join(sorted(twice))}")
        return self


def issue(
    name: str,
    scopes: Sequence[Scope],
    *,
    requests_per_s: float | None = None,
    expires: datetime | None = None,
) -> tuple[str, ApiKey]:
    """A new key: what its holder sends, and what is kept of it."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        name=name,
        sha256=digest(secret),
        scopes=tuple(scopes),
        requests_per_s=requests_per_s,
        expires=expires,
    )
    return secret, key


def digest(secret: str) -> str:
    """The SHA-256 under which a key is known."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """All keys of a file.

    Raises:
        FileNotFoundError: there is none.
        InvalidKeyFileError: it is none.
    """
    try:
        return _Document.model_validate_json(path.read_bytes()).keys
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise InvalidKeyFileError(f"{path} is no file of keys: {where}: {first['msg']}") from error


def write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file at once, readable by its owner only."""
    text = _Document(keys=tuple(keys)).model_dump_json(indent=2, exclude_none=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


class KeyFile:
    """The keys of a file, as they stand now.

    A file that has become unreadable changes nothing: the keys that were read last go on to count,
    and the log says so. One that is unreadable from the start is an error.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen = _stamp(path)
        self._keys = _by_digest(read_keys(path))
        self._checked = clock()

    def find(self, secret: str) -> ApiKey | None:
        """The key that was sent, unless it is unknown or its time is over."""
        if self._clock() - self._checked >= CHECK_EVERY_S:
            self._checked = self._clock()
            self._reload()
        key = self._keys.get(digest(secret))
        return None if key is None or key.expired(datetime.now(UTC)) else key

    def _reload(self) -> None:
        try:
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            self._seen = stamp
            self._keys = _by_digest(read_keys(self._path))
        except (OSError, InvalidKeyFileError) as error:
            log.error("the keys that were read last go on to count: %s", error)


def _by_digest(keys: Sequence[ApiKey]) -> Mapping[str, ApiKey]:
    return {key.sha256: key for key in keys}


def _stamp(path: Path) -> tuple[int, int, int]:
    # A mounted Secret is a link that moves to another folder: the inode tells.
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
