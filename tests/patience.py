"""Waiting for what another process or thread is about to do."""

import time
from collections.abc import Callable

LOOKS_EVERY_S = 0.01


def within(seconds: float) -> Callable[[Callable[[], object]], None]:
    """What returns as soon as a condition holds, and fails where that takes longer."""

    def eventually(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"did not happen within {seconds:g} s"
            time.sleep(LOOKS_EVERY_S)

    return eventually
