"""The one place where a flow gets its verdict: once, however often the flow came.

A queue delivers a message again when a worker died, and a sensor sends one again when an answer was
lost. One Lua call looks a flow's id up, remembers it and appends the verdict to the output stream:
none of the three happens without the others, whenever a worker is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import redis

from services.classify.verdict import Verdict

REMEMBER_S = 3600
LENGTH = 1_000_000

# Ids are kept in a set an interval; what is remembered is this interval's and the last one's. The
# server's clock says which: workers' clocks differ.
_COMMIT = """
local interval = tonumber(ARGV[1])
local now = math.floor(tonumber(redis.call('TIME')[1]) / interval)
local current, last = KEYS[2] .. ':' .. now, KEYS[2] .. ':' .. (now - 1)
local fresh = {}
for i = 3, #ARGV, 2 do
  local new = redis.call('SISMEMBER', last, ARGV[i]) == 0
      and redis.call('SADD', current, ARGV[i]) == 1
  if new then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'verdict', ARGV[i + 1])
  end
  fresh[#fresh + 1] = new and 1 or 0
end
redis.call('EXPIRE', current, 2 * interval)
return fresh
"""


class VerdictLedger:
    """Appends final verdicts to a Redis Stream, one a flow.

    The stream has the form of `sinks.RedisStream`. Who reads it must keep up with `length`: beyond
    it the oldest verdicts go.

    Args:
        name: of the output stream.
        remember_s: an id is known for at least so long, and for at most twice that.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        *,
        remember_s: int = REMEMBER_S,
        length: int = LENGTH,
    ) -> None:
        self._keys = [name, f"{name}:seen"]
        self._remember_s = remember_s
        self._length = length
        self._script = client.register_script(_COMMIT)

    def commit(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Those that are new; only they are in the output now.

        Raises:
            redis.RedisError: some or none are: commit the same ones again.
        """
        if not verdicts:
            return []
        arguments: list[Any] = [self._remember_s, self._length]
        for verdict in verdicts:
            arguments += [bytes.fromhex(verdict.prediction_id), orjson.dumps(verdict.to_json())]
        fresh: Any = self._script(keys=self._keys, args=arguments)
        return [verdict for verdict, new in zip(verdicts, fresh, strict=True) if new]
