"""This room's compiler; see `feature_store.compiled`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from feature_store.compiled import cache_folder, compiler

__all__ = ["cache_folder", "compiled", "int64"]

compiled = compiler(Path(__file__).parent)


@compiled
def int64(value: Any) -> int:
    """Widen a byte, as a signed number: unsigned and signed words together would make a float."""
    return np.int64(value)  # type: ignore[return-value]
