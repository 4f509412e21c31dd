"""Publish, name, open and verify versions, on a local path or an object store."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_store.pacing import Pause, no_pause
from feature_store.registry.manifest import MANIFEST_NAME, FileEntry, Manifest
from feature_store.registry.verified import Verified
from feature_store.storage import asking, is_local, open_storage

ALIAS_HISTORY_LENGTH = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class RegistryError(Exception):
    """Base of what can go wrong with a registry."""


class UnknownVersionError(RegistryError):
    """The model, version or alias does not exist."""


class CorruptVersionError(RegistryError):
    """The files of a version are not the ones that were published."""


class CorruptAliasError(RegistryError):
    """The file of an alias is not one that was written here."""


class _Alias(BaseModel):
    """Where an alias points: the last entry. Earlier entries are what a rollback returns to."""

    model_config = ConfigDict(frozen=True)

    history: tuple[str, ...] = Field(min_length=1)
    moved_at: datetime


class Registry:
    """A versioned, content-checksummed store of models.

    Layout: `ROOT/MODEL/versions/VERSION/{manifest.json,…}` and `ROOT/MODEL/aliases/NAME.json`.
    The manifest is written last: a version without one does not exist.

    Example:
        >>> registry = Registry("var/registry")                              # doctest: +SKIP
        >>> manifest = registry.publish("recommender", staging, data_fingerprint="…",
        ...                             code_version="0.1.0", config={}, metrics={})
        >>> registry.promote("recommender", manifest.version, alias="champion")
        >>> directory = registry.open("recommender", "champion")
    """

    def __init__(self, root: str | Path, *, cache: Path | None = None) -> None:
        """Root is a local path or an fsspec URL; `cache` holds copies of remote versions."""
        self._fs, self._root = open_storage(str(root))
        self._is_local = is_local(self._fs)
        self._cache = cache or Path(tempfile.gettempdir()) / "errata-registry-cache"
        self._verified = Verified()

    def publish(
        self,
        model: str,
        staging: Path,
        *,
        data_fingerprint: str,
        code_version: str,
        config: Mapping[str, Any],
        metrics: Mapping[str, Any],
        user_key: str | None = None,
    ) -> Manifest:
        """Copy every file of `staging` into a new version and return its manifest.

        `user_key`: which key named the users of the data, if any did (`Pseudonyms.key_id`).

        Raises:
            ValueError: `staging` holds no file.
        """
        names = sorted(
            str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()
        )
        if not names:
            raise ValueError(f"nothing to publish: {staging} holds no file")
        now = datetime.now(UTC)
        manifest = Manifest(
            model=model,
            version=f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}",
            created_at=now,
            code_version=code_version,
            data_fingerprint=data_fingerprint,
            config=dict(config),
            metrics=dict(metrics),
            user_key=user_key,
            files={name: FileEntry.of(staging / name) for name in names},
        )
        target = self._version_path(model, manifest.version)
        for name in names:
            destination = f"{target}/{name}"
            self._fs.makedirs(destination.rsplit("/", 1)[0], exist_ok=True)
            self._fs.put_file(str(staging / name), destination)
        self._write_atomically(f"{target}/{MANIFEST_NAME}", manifest.model_dump_json(indent=2))
        return manifest

    def versions(self, model: str) -> list[Manifest]:
        """All versions of `model`, oldest first; a version whose manifest is unreadable is left
        out here and refused by `open`."""
        manifests = []
        for directory in self._children(f"{self._root}/{model}/versions"):
            with suppress(ValidationError, OSError):
                raw = self._read(f"{directory}/{MANIFEST_NAME}")
                manifests.append(Manifest.model_validate_json(raw or b""))
        return sorted(manifests, key=lambda manifest: (manifest.created_at, manifest.version))

    def models(self) -> list[str]:
        """Names of the models that have at least one version."""
        found = [path for path in self._children(self._root) if self._children(f"{path}/versions")]
        return sorted(path.rsplit("/", 1)[1] for path in found)

    def aliases(self, model: str) -> dict[str, str]:
        """Alias → version; an alias whose file is unreadable is left out here and refused by
        `resolve`."""
        found = {}
        for path in self._children(f"{self._root}/{model}/aliases"):
            name = path.rsplit("/", 1)[1].removesuffix(".json")
            if not path.endswith(".json"):
                continue
            try:
                found[name] = self._alias(model, name).history[-1]
            except CorruptAliasError:
                continue
        return found

    def was_promoted(self, model: str) -> bool:
        """Whether any alias, be it unreadable, points at a version of `model`."""
        return any(
            path.endswith(".json") for path in self._children(f"{self._root}/{model}/aliases")
        )

    def alias_history(self, model: str, alias: str) -> tuple[str, ...]:
        """The versions that `alias` pointed at, newest last."""
        return self._alias(model, alias).history

    def resolve(self, model: str, reference: str) -> str:
        """The version that `reference`, an alias or a version, stands for.

        Raises:
            UnknownVersionError: neither an alias nor a version of `model`.
            CorruptAliasError: the alias's file is unreadable.
        """
        if not _NAME.fullmatch(reference):
            raise UnknownVersionError(f"'{reference}' is no name of a version or an alias")
        if alias := self._find_alias(model, reference):
            return alias.history[-1]
        if self._read(f"{self._version_path(model, reference)}/{MANIFEST_NAME}") is not None:
            return reference
        known = sorted(self.aliases(model)) + [each.version for each in self.versions(model)]
        raise UnknownVersionError(
            f"model '{model}' has no version or alias '{reference}'; it has: "
            + (", ".join(known) or "nothing yet (publish one with `errata train`)")
        )

    def manifest(self, model: str, reference: str) -> Manifest:
        """The manifest of an alias or a version.

        Raises:
            UnknownVersionError, CorruptVersionError
        """
        version = self.resolve(model, reference)
        raw = self._read(f"{self._version_path(model, version)}/{MANIFEST_NAME}")
        if raw is None:
            raise UnknownVersionError(
                f"'{reference}' names version {version} of '{model}', which is gone"
            )
        try:
            return Manifest.model_validate_json(raw)
        except ValidationError as error:
            raise CorruptVersionError(
                f"{model} {version}: its manifest is unreadable ({error.error_count()} errors)"
            ) from error

    def open(self, model: str, reference: str, *, pause: Pause = no_pause) -> tuple[Path, Manifest]:
        """A local directory that holds the verified files of a version, and its manifest.

        A remote version is copied into the cache once. Every file's SHA-256 is checked, so a file
        that rotted since it was published is refused; one that this object found whole within the
        last minute, and that nobody has written to since, is not read again. `pause` is called
        meanwhile.

        Raises:
            UnknownVersionError: no such alias or version.
            CorruptVersionError: a file is missing or is not the one that was published.
        """
        manifest = self.manifest(model, reference)
        path = self._version_path(model, manifest.version)
        directory = Path(path) if self._is_local else self._fetch(path, manifest, pause)
        if problems := self._verified.problems(manifest, directory, pause=pause):
            raise CorruptVersionError(
                f"{model} {manifest.version} is corrupt and was refused: {'; '.join(problems)}"
            )
        return directory, manifest

    def promote(self, model: str, version: str, *, alias: str, pause: Pause = no_pause) -> None:
        """Point `alias` at `version`, after verifying its files; `pause` is called meanwhile.

        Raises:
            UnknownVersionError, CorruptVersionError
        """
        if not _NAME.fullmatch(alias):
            raise ValueError(f"'{alias}' is no name for an alias: use letters, digits, _ and -")
        _, manifest = self.open(model, version, pause=pause)
        with self._moving(model, alias):
            history: tuple[str, ...] = ()
            with suppress(UnknownVersionError, CorruptAliasError):  # a new one, or one to repair
                history = self._alias(model, alias).history
            if not history or history[-1] != manifest.version:
                self._move(model, alias, (*history, manifest.version)[-ALIAS_HISTORY_LENGTH:])

    def rollback(self, model: str, *, alias: str, pause: Pause = no_pause) -> str:
        """Point `alias` back at the version before the present one, after verifying its files, and
        return that version; `pause` is called meanwhile.

        Raises:
            UnknownVersionError: there is no earlier version.
            CorruptVersionError: the earlier version is no longer whole.
        """
        with self._moving(model, alias):
            history = self._alias(model, alias).history
            if len(history) < 2:
                raise UnknownVersionError(
                    f"'{alias}' of '{model}' has no earlier version to return to"
                )
            self.open(model, history[-2], pause=pause)
            self._move(model, alias, history[:-1])
            return history[-2]

    def _alias(self, model: str, alias: str) -> _Alias:
        if found := self._find_alias(model, alias):
            return found
        raise UnknownVersionError(f"model '{model}' has no alias '{alias}'")

    def _find_alias(self, model: str, alias: str) -> _Alias | None:
        path = self._alias_path(model, alias)
        if (raw := self._read(path)) is None:
            return None
        try:
            return _Alias.model_validate_json(raw)
        except ValidationError as error:
            raise CorruptAliasError(
                f"{path} is unreadable; point '{alias}' anew with `errata registry promote VERSION`"
            ) from error

    @contextmanager
    def _moving(self, model: str, alias: str) -> Iterator[None]:
        """One process at a time moves a local alias. On an object store the last one wins."""
        if not self._is_local:
            yield
            return
        path = Path(self._alias_path(model, alias)).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self, path: str) -> bytes | None:
        """A file as it is now, or None: `exists` may be told by a listing that is long past."""
        with suppress(FileNotFoundError), asking(path):
            return bytes(self._fs.cat_file(path))
        return None

    def _children(self, path: str) -> list[str]:
        with suppress(FileNotFoundError), asking(path):
            # Clients of object stores keep listings: what others publish meanwhile is not in them.
            found = self._fs.ls(path, detail=False, refresh=True)
            return sorted(str(each).rstrip("/") for each in found)
        return []

    def _move(self, model: str, alias: str, history: tuple[str, ...]) -> None:
        record = _Alias(history=history, moved_at=datetime.now(UTC))
        self._write_atomically(self._alias_path(model, alias), record.model_dump_json(indent=2))

    def _fetch(self, remote: str, manifest: Manifest, pause: Pause) -> Path:
        local = self._cache / manifest.model / manifest.version
        if not local.exists() or self._verified.problems(manifest, local, pause=pause):
            shutil.rmtree(local, ignore_errors=True)
            partial = local.with_name(f"{local.name}.{uuid.uuid4().hex[:6]}")
            for name in manifest.files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                with asking(f"{remote}/{name}"):
                    self._fs.get_file(f"{remote}/{name}", str(partial / name))
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.rename(local)
            except OSError:  # another process fetched the same version meanwhile
                shutil.rmtree(partial, ignore_errors=True)
        return local

    def _write_atomically(self, path: str, text: str) -> None:
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not self._is_local:  # an object store's put is atomic by itself
            self._fs.pipe_file(path, text.encode())
            return
        temporary = Path(f"{path}.{uuid.uuid4().hex[:6]}.tmp")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _version_path(self, model: str, version: str) -> str:
        return f"{self._root}/{model}/versions/{version}"

    def _alias_path(self, model: str, alias: str) -> str:
        return f"{self._root}/{model}/aliases/{alias}.json"
