"""The one place between what an edition says and what is emitted."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Corrector(Protocol):
    """Corrects probabilities by what is remembered near a hidden vector.

    Thresholds (early exit, unknown) are applied to what comes out.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns that `correct` returns: the edition's, and after them those that
        labels brought."""
        ...

    @property
    def reads_hidden(self) -> bool:
        """Whether `correct` looks at hidden vectors now; where it does not they may have no
        columns."""
        ...

    def correct(self, probability: FloatArray, hidden: FloatArray) -> FloatArray:
        """Probabilities that are to be emitted; rows sum to 1.

        Shapes:
            probability: (n, the edition's classes); hidden: (n, d_model), unit vectors
            returns: (n, at least these classes)
        """
        ...


class Uncorrected:
    """The edition's own word."""

    reads_hidden = False

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    def correct(self, probability: FloatArray, hidden: FloatArray) -> FloatArray:  # noqa: ARG002
        """See `Corrector`."""
        return probability
