"""Partitioned queues between processes: each message goes to one reader of a group, or comes again.

`queue.py` is the contract, `redis_streams.py` and `kafka.py` (extra `kafka`) keep it. A payload is
bytes: what they mean is between writer and reader (`feature_store.traffic.records`). Imports
nothing of the rooms beside it.
"""

from feature_store.queues.queue import (
    Delivery,
    Lag,
    QueueFullError,
    QueueReader,
    QueueUnavailableError,
    QueueWriter,
)

__all__ = [
    "Delivery",
    "Lag",
    "QueueFullError",
    "QueueReader",
    "QueueUnavailableError",
    "QueueWriter",
]
