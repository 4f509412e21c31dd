"""Names that nothing else will have."""

from __future__ import annotations

import random

# Seeded by the system when the process starts: `uuid4` asks the system each time, and gives the
# interpreter away for it. A name is no secret.
_random = random.Random()  # nosec B311


def unique_names(n: int) -> list[str]:
    """`n` names of 128 random bits each, in hexadecimal."""
    bits = f"{_random.getrandbits(128 * n):0{32 * n}x}" if n else ""
    return [bits[start : start + 32] for start in range(0, 32 * n, 32)]
