"""What takes verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.classify.verdict import Verdict


class Sink(Protocol):
    """Takes verdicts in the order in which they are made."""

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """Some more of them; none when time has merely passed."""
        ...

    def close(self) -> None:
        """There are no more."""
        ...
