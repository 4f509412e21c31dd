"""What was found whole a moment ago, and was not written since, is not read again."""

from __future__ import annotations

import time
from pathlib import Path

from feature_store.pacing import Pause, no_pause
from feature_store.registry.manifest import Manifest

# Whoever promotes a version loads it next.
LATELY_S = 60.0
# A clock of files ticks every few milliseconds: two writes in one tick look like one.
_SETTLED_NS = 1_000_000_000

# Of each file its SHA-256 as published, and what changes when it is written or replaced.
_State = tuple[tuple[str, int, int, int, int], ...]


class Verified:
    """Versions whose files were verified by this process within the last minute."""

    def __init__(self) -> None:
        self._until: dict[_State, float] = {}

    def problems(
        self, manifest: Manifest, directory: Path, *, pause: Pause = no_pause
    ) -> list[str]:
        """`Manifest.problems`, without reading what was whole within the last minute and whose
        files are the same and have not been written since."""
        now = time.monotonic()
        state = _state(manifest, directory)
        if state is not None and now < self._until.get(state, now):
            return []
        found = manifest.problems(directory, pause=pause)
        # One that was written meanwhile may have been read before that.
        if not found and state is not None and state == _state(manifest, directory):
            lately = {each: until for each, until in self._until.items() if now < until}
            self._until = lately | {state: now + LATELY_S}
        return found


def _state(manifest: Manifest, directory: Path) -> _State | None:
    """None where it could change unseen."""
    try:
        of = [(entry.sha256, (directory / name).stat()) for name, entry in manifest.files.items()]
    except OSError:
        return None
    if any(s.st_ctime_ns > time.time_ns() - _SETTLED_NS for _, s in of):
        return None
    return tuple((sha, s.st_dev, s.st_ino, s.st_size, s.st_ctime_ns) for sha, s in of)
