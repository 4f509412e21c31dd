"""The error memory of the version that a job scores with, as it is when the job is opened."""

from __future__ import annotations

from dataclasses import dataclass

from feature_store.editions.corrections import NEW_CLASSES
from feature_store.editions.memory_keys import D_PART
from feature_store.error_memory import MemoryPolicy
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.replica import MemoryReplica
from feature_store.online import connect
from feature_store.registry.names import RECOMMENDER, TRAFFIC


@dataclass(frozen=True)
class MemorySource:
    """Where a memory is, and the policy that holds until its own stream names another.

    A job that was killed goes on with what is remembered by then.
    """

    url: str
    policy: MemoryPolicy
    tenant: str = "default"
    timeout_s: float = 10.0

    def log(self, model: str, version: str) -> MemoryLog:
        """The stream of a version's errors."""
        client = connect(self.url, timeout_s=self.timeout_s)
        return MemoryLog(client, model=model, version=version, tenant=self.tenant)

    def of_lists(self, version: str, *, model: str = RECOMMENDER) -> MemoryReplica:
        """What a recommender remembers.

        Raises:
            redis.RedisError: the server is gone.
        """
        log = self.log(model, version)
        return self._caught_up(MemoryReplica(log, self.policy, d=2 * D_PART, n_classes=1))

    def of_classes(self, version: str, *, d: int, classes: int) -> MemoryReplica:
        """What a traffic classifier of so many classes remembers under keys (·, d); see above."""
        return self._caught_up(
            MemoryReplica(
                self.log(TRAFFIC, version),
                self.policy,
                d=d,
                n_classes=classes + NEW_CLASSES,
                known_classes=classes,
            )
        )

    def describe(self, model: str, version: str) -> str:
        """For people: how much there is."""
        entries = self.log(model, version).position()
        return f"corrected by the error memory of {version}: {entries:,} errors were remembered"

    def _caught_up(self, replica: MemoryReplica) -> MemoryReplica:
        replica.catch_up()
        return replica


def corrected(memory: MemorySource | None) -> dict[str, bool]:
    """What a job's manifest says: parts with and without correction do not mix."""
    return {} if memory is None else {"memory": True}
