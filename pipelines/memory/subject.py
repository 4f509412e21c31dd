"""What `evaluate` compares ways of correcting: a published version and the events after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from pipelines.memory.stream import Stream


@dataclass(frozen=True)
class Subject:
    """A stream as a published version sees it, and the means to train on.

    Attributes:
        name: of the model.
        stream: events in time order, with the version's predictions and keys.
        classes: names of the columns; empty for scores.
        validation: how many events at the beginning choose parameters.
        network: a fresh copy of what incremental training trains: logits of `stream.inputs`.
        retrained: the events, and so the rows, of `stream` as a model sees them that was trained on
            what is known at the time of event n; None where too little is known.
        notes: facts that a reader of the figures must know.
    """

    name: str
    stream: Stream
    classes: tuple[str, ...]
    validation: int
    network: Callable[[], nn.Module]
    retrained: Callable[[int], Stream | None]
    notes: dict[str, str] = field(default_factory=dict)
