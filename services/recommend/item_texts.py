"""What an answer says of an item, written as JSON once and copied into answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.compiled import compiler, copy_bytes, prefetch
from feature_store.editions import RecommenderEdition

compiled = compiler(Path(__file__).parent)

SCORE_DECIMALS = 5
# Above, a score's digits do not fit the integer that they are taken from.
LARGEST_SCORE = 1e12
# What follows an item's score where nothing is explained.
UNEXPLAINED = {"reasons": None, "corrections": None}
_AFTER_SCORE = np.frombuffer(b',"reasons":null,"corrections":null}', np.uint8)
_SCORE_BYTES = 24
# Bytes of a cache line, and so many items of a list ahead are their texts sent for.
_LINE, _AHEAD = 64, 8
_BEFORE_ID = len('{"item_id":')


class Written(NamedTuple):
    """A list of items as JSON arrays.

    Attributes:
        items: as in an answer. item_ids, scores: of the same items.
    """

    items: bytes
    item_ids: bytes
    scores: bytes


@dataclass(frozen=True)
class ItemTexts:
    """`{"item_id":…,"item_type":…,"title":…,"score":` of n items, end to end.

    Attributes:
        text: all of them, uint8.
        starts: (n + 1,) int64, where each begins.
        id_lengths: (n,) int64 of each id as it is written there.
    """

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    id_lengths: NDArray[np.int64]

    @classmethod
    def of(cls, item_ids: Sequence[str], item_types: Sequence[str], titles: Any) -> ItemTexts:
        """Of a column each; `titles` may hold None."""
        items = pl.DataFrame(
            {"item_id": item_ids, "item_type": item_types, "title": titles},
            schema=dict.fromkeys(("item_id", "item_type", "title"), pl.String),
        )
        whole, id_alone = (pl.struct(each).struct.json_encode() for each in (pl.all(), "item_id"))
        opened = items.select(whole.str.head(-1) + ',"score":').to_series()
        ids = items.select(id_alone.str.len_bytes()).to_series().to_numpy().astype(np.int64)
        starts = np.zeros(len(opened) + 1, np.int64)
        np.cumsum(opened.str.len_bytes().to_numpy(), out=starts[1:])
        text = opened.str.join("").item() or ""
        return cls(np.frombuffer(text.encode(), np.uint8), starts, ids - _BEFORE_ID - 1)

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
) -> list[Written] | None:
    """The first `counts` (B,) items of each list, `rows` and `scores` (B, n), best first.

    Rows behind those of `own` are of `added`. None where a score is too large or no number.
    """
    texts, ends, numbers = _written(
        (own.text, own.starts, own.id_lengths),
        (added.text, added.starts, added.id_lengths),
        rows,
        scores,
        counts,
    )
    if not numbers:
        return None
    at, lists = 0, []
    for items, ids, end in ends.tolist():
        lists.append(
            Written(*(texts[a:b].tobytes() for a, b in ((at, items), (items, ids), (ids, end))))
        )
        at = end
    return lists


_Texts = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


@compiled
def _written(
    own: _Texts,
    added: _Texts,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], bool]:
    """Per list its items, their ids and their scores; where each of these ends (B, 3); and whether
    all scores could be written."""
    # The choice between both stands where it is made: a function that returned arrays would count
    # their references, and take as long again as all the copying.
    n_own = len(own[2])
    ends = np.empty((len(rows), 3), np.int64)
    size = 0
    for b in range(len(rows)):
        size += 6
        for place in range(counts[b]):
            if not abs(scores[b, place]) < LARGEST_SCORE:
                return np.empty(0, np.uint8), ends, False
            row = rows[b, place]
            texts, row = (own, row) if row < n_own else (added, row - n_own)
            size += texts[1][row + 1] - texts[1][row] + texts[2][row]
        size += counts[b] * (2 * _SCORE_BYTES + len(_AFTER_SCORE) + 3)
    out = np.empty(size, np.uint8)
    # Of one list, where each score begins and ends among its items.
    spans = np.empty((rows.shape[1], 2), np.int64)
    at = 0
    for b in range(len(rows)):
        n = counts[b]
        at = _byte(ord("["), out, at)
        for place in range(n):
            if place + _AHEAD < n and rows[b, place + _AHEAD] < n_own:
                ahead = rows[b, place + _AHEAD]
                for line in range(own[1][ahead], own[1][ahead + 1], _LINE):
                    prefetch(own[0], line)
            at = _comma(place, out, at)
            row = rows[b, place]
            texts, row = (own, row) if row < n_own else (added, row - n_own)
            at = _copy(texts[0], texts[1][row], texts[1][row + 1], out, at)
            spans[place, 0] = at
            at = _number(np.float64(scores[b, place]), out, at)
            spans[place, 1] = at
            at = _copy(_AFTER_SCORE, 0, len(_AFTER_SCORE), out, at)
        ends[b, 0] = at = _byte(ord("]"), out, at)
        at = _byte(ord("["), out, at)
        for place in range(n):
            at = _comma(place, out, at)
            row = rows[b, place]
            texts, row = (own, row) if row < n_own else (added, row - n_own)
            begin = texts[1][row] + _BEFORE_ID
            at = _copy(texts[0], begin, begin + texts[2][row], out, at)
        ends[b, 1] = at = _byte(ord("]"), out, at)
        at = _byte(ord("["), out, at)
        for place in range(n):
            at = _comma(place, out, at)
            at = _copy(out, spans[place, 0], spans[place, 1], out, at)
        ends[b, 2] = at = _byte(ord("]"), out, at)
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
