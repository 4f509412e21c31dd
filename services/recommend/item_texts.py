"""What an answer says of an item, written as JSON once and not once an answer."""

from __future__ import annotations

from operator import itemgetter

import orjson
import polars as pl

from feature_store.editions import RecommenderEdition

# Up to here all items are written when an edition is loaded; above, as they are asked for.
WRITTEN_AT_ONCE = 200_000
_THEN_SCORE = b',"score":'


class ItemTexts:
    """`{"item_id":…,"item_type":…,"title":…,"score":` of every item of an edition.

    The first text column is the title by convention.
    """

    def __init__(self, edition: RecommenderEdition) -> None:
        catalogue, columns = edition.catalogue, edition.content.text_columns
        self._items = pl.DataFrame(
            {
                "item_id": pl.Series(catalogue.item_ids, dtype=pl.String),
                "item_type": pl.Series(catalogue.item_types, dtype=pl.String),
                "title": edition.items[columns[0]]
                if columns
                else pl.repeat(None, len(catalogue), dtype=pl.String, eager=True),
            }
        )
        self._all: list[bytes] | None = None
        self._some: dict[int, bytes] = {}
        if len(self._items) <= WRITTEN_AT_ONCE:
            self._all = _written(self._items)

    def of(self, rows: list[int]) -> list[bytes]:
        """The texts of `rows`."""
        if len(rows) < 2:  # for one row `itemgetter` gives no tuple
            return [self._one(row) for row in rows]
        wanted = itemgetter(*rows)
        if self._all is not None:
            return list(wanted(self._all))
        try:
            return list(wanted(self._some))
        except KeyError:
            return list(wanted(self._more(rows)))

    def _one(self, row: int) -> bytes:
        return self._all[row] if self._all is not None else self._more([row])[row]

    def _more(self, rows: list[int]) -> dict[int, bytes]:
        known = self._some if len(self._some) < WRITTEN_AT_ONCE else {}
        missing = [row for row in rows if row not in known]
        if missing:
            known.update(zip(missing, _written(self._items[missing]), strict=True))
        self._some = known
        return known


def text_of(item_id: str, item_type: str, title: str | None) -> bytes:
    """The text of one item."""
    return (
        orjson.dumps({"item_id": item_id, "item_type": item_type, "title": title})[:-1]
        + _THEN_SCORE
    )


def _written(items: pl.DataFrame) -> list[bytes]:
    whole = pl.struct(pl.all()).struct.json_encode()
    opened = whole.str.head(-1) + _THEN_SCORE.decode()
    texts: list[bytes] = items.select(opened.cast(pl.Binary)).to_series().to_list()
    return texts
