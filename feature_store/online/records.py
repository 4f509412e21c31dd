"""What the online store holds, and how it is written down."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import orjson


class Event(NamedTuple):
    """Something a user did with an item; thirty a request are made, hence no dataclass.

    Attributes:
        item_id: the catalogue's id.
        timestamp_ms: milliseconds since the epoch; 0 where the data have no time.
        type: the signal, such as `click`, `view`, `dismiss`.
        weight: strength of the signal, above 0.
    """

    item_id: str
    timestamp_ms: int
    type: str = "interaction"
    weight: float = 1.0

    def pack(self) -> bytes:
        """The event as stored."""
        return orjson.dumps(tuple(self))

    @classmethod
    def unpack(cls, raw: bytes) -> Event:
        """Inverse of `pack`."""
        return cls(*orjson.loads(raw))


# `Event._make` without its check: thirty a request are made of what `pack` wrote.
_stored = functools.partial(tuple.__new__, Event)


class StoredUser(NamedTuple):
    """A user as Redis holds one: comparing two costs nothing, and reading one a lot more.

    Attributes:
        history: a JSON array of events, newest first. features: a JSON object, or nothing.
        hidden: ids of items that the user does not want, also those that the history has forgotten.
        revision: another one whenever any of these has changed; nothing where nobody said.
    """

    history: bytes = b"[]"
    features: bytes = b""
    hidden: tuple[bytes, ...] = ()
    revision: bytes = b""

    def read(self) -> OnlineUser:
        """What it says."""
        return OnlineUser(
            events=list(map(_stored, orjson.loads(self.history))),
            features=orjson.loads(self.features) if self.features else {},
            hidden=tuple(item_id.decode() for item_id in self.hidden),
        )


class OnlineUser(NamedTuple):
    """What is known of a user.

    Attributes:
        events: the history, newest first.
        features: as in the users table.
        hidden: items that the user does not want.
    """

    events: list[Event]
    features: dict[str, Any]
    hidden: tuple[str, ...] = ()


class StoredPrediction(NamedTuple):
    """That something was served, kept until its outcome arrives or its time is up.

    What was served is the error memory's to keep (`error_memory/outcomes.py`).
    """

    prediction_id: str
    user_id: str | None
    model_version: str
    served_at_ms: int

    def pack(self) -> bytes:
        """The prediction as stored, but for its id."""
        return orjson.dumps(self[1:])

    @classmethod
    def unpack(cls, prediction_id: str, raw: bytes) -> StoredPrediction:
        """Inverse of `pack`."""
        return cls(prediction_id, *orjson.loads(raw))
