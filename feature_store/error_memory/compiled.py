"""This room's compiler; see `feature_store.compiled`."""

from __future__ import annotations

from pathlib import Path

from feature_store.compiled import compiler

# Sums may be reordered, so that they use the machine's vectors; NaN and infinity keep their sense.
_FASTMATH = {"reassoc", "contract", "nsz"}

# A function makes views of arrays, but no arrays: counting the references to views, an atomic
# operation each time, was 40 % of a read.
compiled = compiler(Path(__file__).parent, fastmath=_FASTMATH, _nrt=False, forceinline=True)

# A function that makes arrays.
allocating = compiler(Path(__file__).parent, fastmath=_FASTMATH)
