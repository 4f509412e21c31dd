"""Whether Redis has room for what may be lost, so that what must not be lost finds some."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import redis

log = logging.getLogger(__name__)

SHARE = 0.8
# Between giving way and keeping again, of the memory: what expires within a second must not switch
# every second.
HYSTERESIS = 0.05


class Headroom:
    """A server's memory, as it was when it was looked at last.

    A server that is full and forgets nothing (`noeviction`) refuses every write. What waits for an
    outcome is by far the most that is written and the least that is missed: it gives way while more
    than a share of `maxmemory` is used, and histories, feedback and the errors that are remembered
    have the rest. Eviction could not tell them apart: it goes by age or by time to live, and the
    ids by which nothing counts twice live shorter than what waits.

    Example:
        >>> headroom = Headroom("predictions")
        >>> headroom.heed({"used_memory": 85, "maxmemory": 100})
        >>> headroom.problem
        'Redis uses more than 80 % of its maxmemory: predictions are not kept for their outcome'
    """

    def __init__(self, gives_way: str, *, share: float = SHARE) -> None:
        """There is room until `look` finds none.

        Args:
            gives_way: what is not kept meanwhile, for whoever reads the log.
            share: of `maxmemory`, in (0, 1].
        """
        self._share, self._gives_way = share, gives_way
        self._full = self._said_unlimited = False

    @property
    def full(self) -> bool:
        """Whether what may be lost is not to be kept now."""
        return self._full

    @property
    def problem(self) -> str | None:
        """What is not kept, and why; None while there is room."""
        if not self._full:
            return None
        return (
            f"Redis uses more than {100 * self._share:.0f} % of its maxmemory: "
            f"{self._gives_way} are not kept for their outcome"
        )

    def look(self, client: redis.Redis) -> None:
        """Ask the server, in one round trip.

        Raises:
            redis.RedisError: it is gone; what was known stays.
        """
        try:
            memory = client.info("memory")
        except redis.ResponseError:  # not this user's to ask, or a proxy's to answer
            memory = {}
        self.heed(memory)

    def heed(self, memory: Mapping[str, Any]) -> None:
        """Take the section `memory` of the server's INFO. Changes are said in the log."""
        limit = int(memory.get("maxmemory", 0))
        if not limit and not self._said_unlimited:
            self._said_unlimited = True
            log.warning(
                "Redis names no maxmemory: %s are kept whatever memory they take", self._gives_way
            )
        used = int(memory["used_memory"]) / limit if limit else 0.0
        before = self._full
        self._full = used > self._share - (HYSTERESIS if before else 0.0)
        if self._full and not before:
            log.warning("%s", self.problem)
        elif before and not self._full:
            log.warning("Redis has room again: %s are kept", self._gives_way)
