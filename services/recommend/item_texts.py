"""What an answer says of an item, written as JSON once and copied into answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.compiled import CACHE_LINE_BYTES, compiler, copy_bytes, prefetch
from feature_store.editions import RecommenderEdition

compiled = compiler(Path(__file__).parent)

SCORE_DECIMALS = 5
# Above, a score's digits do not fit the integer that they are taken from.
LARGEST_SCORE = 1e12
# What follows an item's score where nothing is explained.
UNEXPLAINED = {"reasons": None, "corrections": None}
_AFTER_SCORE = np.frombuffer(b',"reasons":null,"corrections":null}', np.uint8)
_SCORE_BYTES = 24
_AHEAD = 8  # so many items of a list ahead are their texts sent for


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
    own: ItemTexts,
    added: ItemTexts,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> list[bytes] | None:
    """As JSON arrays, the first `counts` (B,) items of each list, `rows` and `scores` (B, n), best
    first.

    Rows behind those of `own` are of `added`. None where a score is too large or no number.
    """
    texts, ends, numbers = _written(
        (own.text, own.starts),
        (added.text, added.starts),
        rows,
        scores,
        counts,
    )
    if not numbers:
        return None
    bounds = [0, *ends.tolist()]
    return [texts[begin:end].tobytes() for begin, end in pairwise(bounds)]


_Texts = tuple[NDArray[np.uint8], NDArray[np.int64]]


@compiled
def _written(
    own: _Texts,
    added: _Texts,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], bool]:
    """The lists, end to end; where each of them ends (B,); and whether all scores could be
    written."""
    # The choice between both stands where it is made: a function that returned arrays would count
    # their references, and take as long again as all the copying.
    n_own = len(own[1]) - 1
    ends = np.empty(len(rows), np.int64)
    size = 0
    for b in range(len(rows)):
        size += 2
        for place in range(counts[b]):
            if not abs(scores[b, place]) < LARGEST_SCORE:
                return np.empty(0, np.uint8), ends, False
            row = rows[b, place]
            texts, row = (own, row) if row < n_own else (added, row - n_own)
            size += texts[1][row + 1] - texts[1][row]
        size += counts[b] * (_SCORE_BYTES + len(_AFTER_SCORE) + 1)
    out = np.empty(size, np.uint8)
    at = 0
    for b in range(len(rows)):
        n = counts[b]
        at = _byte(ord("["), out, at)
        for place in range(n):
            if place + _AHEAD < n and rows[b, place + _AHEAD] < n_own:
                ahead = rows[b, place + _AHEAD]
                for line in range(own[1][ahead], own[1][ahead + 1], CACHE_LINE_BYTES):
                    prefetch(own[0], line)
            at = _comma(place, out, at)
            row = rows[b, place]
            texts, row = (own, row) if row < n_own else (added, row - n_own)
            at = _copy(texts[0], texts[1][row], texts[1][row + 1], out, at)
            at = _number(np.float64(scores[b, place]), out, at)
            at = _copy(_AFTER_SCORE, 0, len(_AFTER_SCORE), out, at)
        ends[b] = at = _byte(ord("]"), out, at)
    return out, ends, True


@compiled
def _comma(place: int, out: NDArray[np.uint8], at: int) -> int:
    """What stands before the item at `place`."""
    return _byte(ord(","), out, at) if place else at


@compiled
def _byte(character: int, out: NDArray[np.uint8], at: int) -> int:
    out[at] = character
    return at + 1


@compiled
def _copy(text: NDArray[np.uint8], begin: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    """Copy `text[begin:end]`; returns where the copy ends."""
    copy_bytes(out, at, text, begin, end - begin)
    return at + end - begin


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
