"""Where verdicts go: lines of JSON, a live table, a Redis Stream, whoever listens over HTTP.

A sink is anything with `write` and `close` (`Sink`). None of them may stop the stream: one that
cannot keep up or is gone drops verdicts, and counts them.
"""

from services.classify.sinks.hub import Hub, Subscription
from services.classify.sinks.json_lines import JsonLines
from services.classify.sinks.live_table import LiveTable
from services.classify.sinks.redis_stream import RedisStream
from services.classify.sinks.sink import Sink

__all__ = ["Hub", "JsonLines", "LiveTable", "RedisStream", "Sink", "Subscription"]
