"""How far a list leans on what is popular, by how much is known of the user.

    score(u, i) = (1 - w_n) s(u, i) + w_n log(1 + popularity_i),    n = |history of u|

A log-linear opinion pool (Genest and Zidek, 1986) of the model and of popularity. Of somebody with
no history or a very short one a model says more than it knows; w is fitted by training on users
that it had not met, and travels with the edition, so that evaluation and serving lean alike.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_store.interactions.history_rows import SparseRows

FloatArray = NDArray[np.float32]


class PopularityShare(BaseModel):
    """w, piecewise linear in log(1 + n) between the given lengths, and constant outside them.

    Somebody of whom neither history nor feature is known has w = 1, whatever was fitted.

    Attributes:
        lengths: history lengths, rising; none leaves everybody else to the model alone.
        shares: w at each of them, in [0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lengths: tuple[int, ...] = ()
    shares: tuple[float, ...] = Field(())

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if len(self.lengths) != len(self.shares):
            raise ValueError(f"{len(self.lengths)} lengths for {len(self.shares)} shares")
        if list(self.lengths) != sorted({*self.lengths}) or min(self.lengths, default=0) < 0:
            raise ValueError(f"lengths {self.lengths} do not rise from 0 or more")
        if not all(0 <= share <= 1 for share in self.shares):
            raise ValueError(f"shares {self.shares} are not all in [0, 1]")
        return self

    def of(self, histories: SparseRows, features: FloatArray) -> FloatArray:
        """(B,) float32 w of each user.

        Args:
            histories: (B, n_items) weights. features: (B, F).
        """
        lengths = np.diff(histories.indptr)
        shares = np.zeros(len(lengths), np.float32)
        if not self.lengths and lengths.all():
            return shares
        if self.lengths:
            at = np.log1p(lengths)
            shares[:] = np.interp(at, np.log1p(np.array(self.lengths)), self.shares)
        shares[(lengths == 0) & ~features.any(axis=1)] = 1.0
        return shares


def blend(model: FloatArray, log_popularity: FloatArray, share: FloatArray | float) -> FloatArray:
    """The pool of both scores, float32; shapes broadcast. What the model rules out stays at -inf,
    except where the share is 1 and nobody asks it."""
    own = np.asarray(1 - np.asarray(share, np.float32))
    blended = np.zeros(np.broadcast_shapes(model.shape, own.shape), np.float32)
    np.multiply(model, own, out=blended, where=own > 0, casting="same_kind")
    blended += (1 - own) * log_popularity
    return blended
