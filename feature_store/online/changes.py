"""What was added to and withdrawn from a catalogue since its edition was built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

# One round trip, atomic: a reader that sees the revision sees the change.
_PUT = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('INCR', KEYS[2])
"""
_WITHDRAWN = b""


@dataclass(frozen=True)
class Changes:
    """All changes up to a revision.

    Attributes:
        added: item id → description, as it was given.
        withdrawn: ids that must not be returned.
    """

    revision: int = 0
    added: tuple[tuple[str, bytes], ...] = ()
    withdrawn: tuple[str, ...] = ()


class CatalogueChanges:
    """The changes of one tenant's catalogue in Redis; every method is one round trip.

    The last word about an item counts. What a later edition already has costs nothing there.
    """

    def __init__(self, client: redis.Redis, *, tenant: str = "default") -> None:
        """Keys begin with `errata:TENANT:catalogue`."""
        self._redis = client
        self._key = f"errata:{tenant}:catalogue"
        self._put = client.register_script(_PUT)

    def add(self, item_id: str, description: bytes) -> int:
        """Add an item, or make a withdrawn one available again; returns the revision."""
        return int(self._put(keys=self._keys, args=[item_id, description]))

    def withdraw(self, item_id: str) -> int:
        """Withdraw an item; returns the revision."""
        return int(self._put(keys=self._keys, args=[item_id, _WITHDRAWN]))

    def since(self, revision: int) -> Changes | None:
        """All changes, or None when there was none after `revision`."""
        now = int(self._redis.get(self._keys[1]) or 0)
        if now == revision:
            return None
        found = cast(dict[bytes, bytes], self._redis.hgetall(self._key))
        entries = sorted(found.items())
        return Changes(
            revision=now,
            added=tuple((item_id.decode(), raw) for item_id, raw in entries if raw != _WITHDRAWN),
            withdrawn=tuple(item_id.decode() for item_id, raw in entries if raw == _WITHDRAWN),
        )

    @property
    def _keys(self) -> list[str]:
        return [self._key, f"{self._key}:revision"]
