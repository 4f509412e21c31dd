"""This room's compiler; see `feature_store.compiled`."""

from __future__ import annotations

from pathlib import Path

from feature_store.compiled import compiler

# Sums may be reordered, so that they use the machine's vectors; NaN and infinity keep their sense.
compiled = compiler(Path(__file__).parent, fastmath={"reassoc", "contract", "nsz"})
