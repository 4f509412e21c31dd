"""Taking one source's entries out of every version's stream, for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from feature_store.error_memory.events import erase_events
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.wire import unpack

_PAGE = 512


@dataclass(frozen=True)
class Erased:
    """What became of a source's entries.

    Attributes:
        removed: entries and labelled events that were deleted from Redis.
        silenced: entries that share a message with others, or are the newest, and stay as numbers
            under the source's hash until the stream's cap passes them; no replica counts them.
    """

    removed: int
    silenced: int


def erase_source(client: redis.Redis, source: str, *, tenant: str = "default") -> Erased:
    """Delete what a source said from the memories of all versions of all models.

    A tombstone holds the source's hash, not its name: replicas rebuild without it within a second.

    Raises:
        redis.RedisError: the server is gone; what was done stays done, and a second call goes on.
    """
    wanted = np.uint64(source_id(source))
    removed = erase_events(client, source, tenant=tenant)
    silenced = 0
    for key in _streams(client, tenant):
        model, version = key.rsplit("{", 1)[1].rstrip("}").split(":", 1)
        log = MemoryLog(client, model=model, version=version, tenant=tenant)
        # Before the deletion: a replica that starts meanwhile must leave out what it still finds.
        log.erase_name(source)
        last: Any = client.xrevrange(key, count=1)
        doomed: list[bytes] = []
        for message_id, fields in _messages(client, key):
            mine = unpack(fields[b"b"]).sources == wanted
            # The newest message's id is what the next one counts from.
            if mine.all() and message_id != last[0][0]:
                doomed.append(message_id)
                removed += int(mine.sum())
            else:
                silenced += int(mine.sum())
        for start in range(0, len(doomed), _PAGE):
            client.xdel(key, *doomed[start : start + _PAGE])
    return Erased(removed=removed, silenced=silenced)


def _streams(client: redis.Redis, tenant: str) -> list[str]:
    escaped = "".join(f"\\{each}" if each in "*?[]\\" else each for each in tenant)
    found = client.scan_iter(match=f"errata:{escaped}:memory:{{*}}", count=1_000, _type="stream")
    return sorted(key.decode() for key in found)


def _messages(client: redis.Redis, key: str) -> Any:
    after = "-"
    while True:
        page: Any = client.xrange(key, after, "+", count=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = "(" + page[-1][0].decode()
