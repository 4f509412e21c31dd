"""A version whose memory a command looks into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from errata.cli.evaluate_memory import served_policy
from errata.cli.serve import redis_url
from errata.settings import Settings
from feature_store.registry.names import TRAFFIC

if TYPE_CHECKING:
    from feature_store.editions.traffic import TrafficEdition
    from feature_store.error_memory.log import MemoryLog
    from feature_store.error_memory.replica import MemoryReplica
    from feature_store.registry import Registry


@dataclass(frozen=True)
class OpenedMemory:
    """The memory of a version; `url` is the Redis that holds it."""

    registry: Registry
    url: str
    log: MemoryLog

    @cached_property
    def edition(self) -> TrafficEdition:
        """Of a traffic classifier."""
        from feature_store.editions.traffic import TrafficEdition

        directory, _ = self.registry.open(self.log.model, self.log.version)
        return TrafficEdition.load(directory)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Of a traffic classifier: those that labels brought behind its own."""
        from feature_store.editions.corrections import class_names, new_classes

        return class_names(self.edition.classes, new_classes(self.log))

    @cached_property
    def replica(self) -> MemoryReplica:
        """The memory as a replica of the service has it."""
        from pipelines.scoring.memory import MemorySource

        model, version = self.log.model, self.log.version
        source = MemorySource(self.url, served_policy(model), self.log.tenant)
        if model != TRAFFIC:
            return source.of_lists(version, model=model)
        width, own = self.edition.keys.centre.shape[0], len(self.edition.classes)
        return source.of_classes(version, d=width, classes=own)


@contextmanager
def opened_memory(model: str, version: str, tenant: str) -> Iterator[OpenedMemory]:
    """The memory of a version, or of what an alias names.

    Raises:
        RegistryError: there is no such version.
        redis.RedisError: the server does not answer.
    """
    from feature_store.error_memory.log import MemoryLog
    from feature_store.online import connect
    from feature_store.registry import Registry

    settings = Settings()
    registry = Registry(settings.registry, cache=settings.home / "cache" / "registry")
    resolved = registry.resolve(model, version)
    with redis_url(settings) as url:
        client = connect(url, timeout_s=10)
        log = MemoryLog(client, model=model, version=resolved, tenant=tenant)
        yield OpenedMemory(registry, url, log)
