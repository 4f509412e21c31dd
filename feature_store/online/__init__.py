"""State that every replica of a service shares, in a real Redis (or Valkey) server.

`embedded.py` starts a server as a child process where none is named; `client.py` makes clients
that fail fast; `store.py` is the online store: user histories, user features, predictions that
wait for their outcome, as `records.py` writes them down; `headroom.py` says when predictions must
give way to histories; `changes.py` keeps the items that came and went since the last build.
"""

from feature_store.online.changes import CatalogueChanges, Changes
from feature_store.online.client import connect, describe
from feature_store.online.embedded import EmbeddedRedis, EmbeddedRedisError
from feature_store.online.headroom import Headroom
from feature_store.online.records import Event, OnlineUser, StoredPrediction, StoredUser
from feature_store.online.store import Materialised, OnlineStore, digest

__all__ = [
    "CatalogueChanges",
    "Changes",
    "EmbeddedRedis",
    "EmbeddedRedisError",
    "Event",
    "Headroom",
    "Materialised",
    "OnlineStore",
    "OnlineUser",
    "StoredPrediction",
    "StoredUser",
    "connect",
    "describe",
    "digest",
]
