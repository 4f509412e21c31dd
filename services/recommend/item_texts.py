"""What an answer says of an item, written as JSON once and copied into answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.compiled import compiler
from feature_store.editions import RecommenderEdition

compiled = compiler(Path(__file__).parent)

SCORE_DECIMALS = 5
# Above, a score's digits do not fit the integer that they are taken from.
LARGEST_SCORE = 1e12
_SCORE_BYTES = 24
_AFTER_SCORE = np.frombuffer(b',"reasons":null,"corrections":null}', np.uint8)


@dataclass(frozen=True)
class ItemTexts:
    """`{"item_id":…,"item_type":…,"title":…,"score":` of n items, end to end.

    Attributes:
        text: all of them, uint8.
        starts: (n + 1,) int64, where each begins.
    """

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, item_ids: Sequence[str], item_types: Sequence[str], titles: Any) -> ItemTexts:
        """Of a column each; `titles` may hold None."""
        items = pl.DataFrame(
            {"item_id": item_ids, "item_type": item_types, "title": titles},
            schema=dict.fromkeys(("item_id", "item_type", "title"), pl.String),
        )
        whole = pl.struct(pl.all()).struct.json_encode()
        opened = items.select(whole.str.head(-1) + ',"score":').to_series()
        starts = np.zeros(len(opened) + 1, np.int64)
        np.cumsum(opened.str.len_bytes().to_numpy(), out=starts[1:])
        text = opened.str.join("").item() or ""
        return cls(np.frombuffer(text.encode(), np.uint8), starts)

    @classmethod
    def of_edition(cls, edition: RecommenderEdition) -> ItemTexts:
        """Of its items; the first text column is the title by convention."""
        catalogue, columns = edition.catalogue, edition.content.text_columns
        titles = edition.items[columns[0]] if columns else [None] * len(catalogue)
        return cls.of(catalogue.item_ids, catalogue.item_types, titles)


def written(
    own: ItemTexts, added: ItemTexts, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> bytes:
    """The items `rows` (k,) with `scores` (k,), best first, as a JSON array.

    Rows behind those of `own` are of `added`. Scores are below `LARGEST_SCORE`.
    """
    return _written(own.text, own.starts, added.text, added.starts, rows, scores).tobytes()


@compiled
def _written(
    own: NDArray[np.uint8],
    own_starts: NDArray[np.int64],
    added: NDArray[np.uint8],
    added_starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> NDArray[np.uint8]:
    n_own = len(own_starts) - 1
    size = 2
    for row in rows:
        if row < n_own:
            size += own_starts[row + 1] - own_starts[row]
        else:
            size += added_starts[row - n_own + 1] - added_starts[row - n_own]
        size += _SCORE_BYTES + len(_AFTER_SCORE) + 1
    out = np.empty(size, np.uint8)
    out[0] = ord("[")
    at = 1
    for place in range(len(rows)):
        if place:
            out[at] = ord(",")
            at += 1
        row = rows[place]
        if row < n_own:
            at = _copy(own[own_starts[row] : own_starts[row + 1]], out, at)
        else:
            row -= n_own
            at = _copy(added[added_starts[row] : added_starts[row + 1]], out, at)
        at = _number(np.float64(scores[place]), out, at)
        at = _copy(_AFTER_SCORE, out, at)
    out[at] = ord("]")
    return out[: at + 1]


@compiled
def _copy(text: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    out[at : at + len(text)] = text
    return at + len(text)


@compiled
def _number(number: float, out: NDArray[np.uint8], at: int) -> int:
    """Write it with one to `SCORE_DECIMALS` decimals; returns where it ends."""
    digits = np.int64(np.rint(abs(number) * 10**SCORE_DECIMALS))
    if number < 0 and digits:
        out[at] = ord("-")
        at += 1
    whole, part = digits // 10**SCORE_DECIMALS, digits % 10**SCORE_DECIMALS
    n_digits, rest = 1, whole // 10
    while rest:
        n_digits += 1
        rest //= 10
    for place in range(n_digits):
        out[at + n_digits - 1 - place] = ord("0") + whole % 10
        whole //= 10
    at += n_digits
    out[at] = ord(".")
    for place in range(SCORE_DECIMALS):
        out[at + SCORE_DECIMALS - place] = ord("0") + part % 10
        part //= 10
    end = at + SCORE_DECIMALS
    while out[end] == ord("0") and end > at + 1:
        end -= 1
    return end + 1
