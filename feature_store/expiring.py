"""Many values with a time to live, in one command of Redis."""

from __future__ import annotations

from collections.abc import Mapping

import redis

# A pipeline of as many commands costs the client ten times as much as their arguments.
_SET = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'EX', ARGV[1]) end"


class ExpiringValues:
    """Keeps values of one client; raises `redis.RedisError` when the server is gone."""

    def __init__(self, client: redis.Redis) -> None:
        self._set = client.register_script(_SET)

    def keep(self, values: Mapping[str, bytes], *, ttl_s: int) -> None:
        """Set each key to its value for `ttl_s` seconds, in one round trip."""
        if values:
            self._set(keys=list(values), args=[ttl_s, *values.values()])
