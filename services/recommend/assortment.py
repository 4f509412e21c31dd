"""What can be recommended now: an edition's items, and what was added and withdrawn since."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from feature_store.editions import RecommenderEdition
from feature_store.editions.additions import AddedItem, place
from feature_store.editions.replaying import pack_history
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.vectors import RowFilter
from services.problems import ProblemError
from services.recommend import item_texts
from services.recommend.item_texts import UNEXPLAINED, ItemTexts
from services.recommend.settings import Where
from services.recommend.users import KnownUser

REMEMBERED_FILTERS = 256
_WHEN = attrgetter("timestamp_ms")


class Seen(NamedTuple):
    """A user's history as one catalogue understands it.

    Attributes:
        told: what happened, packed for the versions to come.
        rows, weights: (m,) int32 and float32, what speaks and how loudly, newest first; an item
            that was added speaks through those that it is like.
        met: (e,) int64 rows of what the user met or does not want.
        unwanted: (u,) int64 rows of what the user does not want.
    """

    told: bytes
    rows: NDArray[np.int32]
    weights: NDArray[np.float32]
    met: NDArray[np.int64]
    unwanted: NDArray[np.int64]


class Assortment:
    """Rows ↔ items of one edition: its own rows 0…n-1, and behind them what was added.

    Immutable as far as a request can see: a change makes a new one.

    Attributes:
        edition: whose index searches the added rows too and never returns withdrawn ones.
        base: the edition as it was published.
        identity: stands for it in what is remembered of it, and does not keep it.
        added_vectors: (len(added), d + r) float32 item vectors.
        texts: what answers say of its items.
    """

    def __init__(
        self,
        edition: RecommenderEdition,
        *,
        added: Sequence[AddedItem] = (),
        withdrawn: Iterable[str] = (),
        like: Assortment | None = None,
    ) -> None:
        """Added items that the edition has, and those that nothing says where to place, are left
        out. `like` is one whose edition has the same item table: what is known of the items, and
        of users where both understand them alike, is taken from there."""
        catalogue = edition.catalogue
        self.base = edition
        self.identity = object()
        self.n_base = len(catalogue)
        gone = set(withdrawn)
        self._base_row_of = catalogue.row_of
        placed = [
            (item, *placed_at)
            for item in added
            if item.item_id not in self._base_row_of
            and item.item_id not in gone
            and (placed_at := place(edition, item)) is not None
        ]
        self.added = tuple(item for item, _, _ in placed)
        self._added_row_of = {
            item.item_id: self.n_base + number for number, item in enumerate(self.added)
        }
        self._proxies = [proxies for _, _, proxies in placed]
        rows = [row for item_id in gone if (row := self._base_row_of.get(item_id)) is not None]
        self.n_offered = len(self) - len(rows)
        d = edition.item_vectors.shape[1]
        vectors = [vector for _, vector, _ in placed]
        self.added_vectors = np.array(vectors, np.float32).reshape(-1, d)
        if placed or rows:
            edition = edition.with_side(
                added=self.added_vectors,
                bias=np.array([edition.bias[p].mean() for p in self._proxies], np.float32),
                withdrawn=np.array(sorted(rows), np.int64),
            )
        self.edition = edition
        # What is kept for a user's next request names those who understand it alike, without
        # keeping them. Behind a switch all users at once would have to be understood anew.
        self._mark: object = object()
        if like is not None and self._understands_as(like):
            self._mark = like._mark
        self._filters: OrderedDict[object, RowFilter] = OrderedDict()
        self._lock = threading.Lock()
        self.texts: ItemTexts = ItemTexts.of_edition(self.base) if like is None else like.texts
        self._added_texts = ItemTexts.of(
            [item.item_id for item in self.added],
            [item.item_type for item in self.added],
            [item.title for item in self.added],
        )
        columns = edition.content.text_columns
        self._titles = edition.items[columns[0]] if columns else None

    def __len__(self) -> int:
        return self.n_base + len(self.added)

    def row(self, item_id: str) -> int:
        """The row of `item_id`, or -1."""
        row = self._base_row_of.get(item_id)
        return self._added_row_of.get(item_id, -1) if row is None else row

    def rows(self, item_ids: Iterable[str]) -> list[int]:
        """The rows of those ids that are known."""
        return [row for item_id in item_ids if (row := self.row(item_id)) >= 0]

    def seen(self, told: Sequence[str], user: KnownUser) -> Seen:
        """What a request tells, oldest first, and behind it what is stored of its user.

        Feedback can arrive late: what counts is when it happened, as in training. Whoever takes an
        item that was dismissed before wants it again.
        """
        understood = user.understood  # read once: the warm-up of another version sets it too
        if not told and understood is not None and understood[0] is self._mark:
            known: Seen = understood[1]
            return known
        stored = sorted(user.events, key=_WHEN, reverse=True)
        events = [(item_id, "interaction") for item_id in reversed(told)]
        events += [(event.item_id, event.type) for event in stored]
        last: dict[str, str] = {}
        for event in stored:
            last.setdefault(event.item_id, event.type)
        wanted = {item_id for item_id, kind in last.items() if kind not in NEGATIVE_SIGNALS}
        seen = self._seen(events, user.hidden, wanted)
        if not told:
            user.understood = (self._mark, seen)
        return seen

    def _understands_as(self, other: Assortment) -> bool:
        """Whether `seen` says the same there."""
        return (
            self.base.catalogue == other.base.catalogue
            and self.base.history == other.base.history
            and self._added_row_of == other._added_row_of
            and all(map(np.array_equal, self._proxies, other._proxies))
        )

    def _seen(
        self, events: Sequence[tuple[str, str]], hidden: Sequence[str], wanted: Collection[str]
    ) -> Seen:
        rows = [self.row(item_id) for item_id, _ in events]
        kinds = [kind for _, kind in events]
        speaking: list[tuple[int, str]] = []
        for row, kind in zip(rows, kinds, strict=True):
            if row < self.n_base:
                speaking.append((row, kind))
            else:
                proxies = self._proxies[row - self.n_base].tolist()
                speaking += [(proxy, kind) for proxy in proxies]
        refused = self.rows(each for each in hidden if each not in wanted)
        met = [row for row in rows if row >= 0]
        unwanted = [
            row
            for row, (item_id, kind) in zip(rows, events, strict=True)
            if row >= 0 and kind in NEGATIVE_SIGNALS and item_id not in wanted
        ]
        return Seen(
            pack_history(events),
            *self.base.weigh_one(speaking),
            met=np.array(met + refused, np.int64),
            unwanted=np.array(unwanted + refused, np.int64),
        )

    def item_ids(self, rows: list[int]) -> list[str]:
        """The ids of `rows`."""
        ids, n = self.edition.catalogue.item_ids, self.n_base
        if not self.added:
            return list(itemgetter(*rows)(ids)) if len(rows) > 1 else [ids[row] for row in rows]
        return [ids[row] if row < n else self.added[row - n].item_id for row in rows]

    def item_types(self, rows: list[int]) -> list[str]:
        """The types of `rows`."""
        types, n = self.edition.catalogue.item_types, self.n_base
        if not self.added:
            return [types[row] for row in rows]
        return [types[row] if row < n else self.added[row - n].item_type for row in rows]

    def titles(self, rows: list[int]) -> list[str | None]:
        """The first text column of `rows`, which is their title by convention."""
        n = self.n_base
        if self._titles is None:
            own: list[str | None] = [None] * len(rows)
        elif not self.added:
            return self._titles.gather(rows).to_list()
        else:
            own = self._titles.gather([row if row < n else 0 for row in rows]).to_list()
        return [
            title if row < n else self.added[row - n].title
            for row, title in zip(rows, own, strict=True)
        ]

    def described(self, rows: list[int], scores: list[float]) -> list[dict[str, Any]]:
        """The items of `rows` as in an answer."""
        described = zip(
            self.item_ids(rows), self.item_types(rows), self.titles(rows), scores, strict=True
        )
        return [
            {"item_id": item_id, "item_type": item_type, "title": title, "score": score}
            for item_id, item_type, title, score in described
        ]

    def written(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32], counts: NDArray[np.int64]
    ) -> list[bytes]:
        """Of each list the items as JSON, without reasons: the first `counts` (B,) of `rows` and
        `scores` (B, n), best first."""
        lists = item_texts.written(self.texts, self._added_texts, rows, scores, counts)
        if lists is not None:
            return lists
        return [
            self._written_slowly(each[:count].tolist(), loud[:count].tolist())
            for each, loud, count in zip(rows, scores, counts.tolist(), strict=True)
        ]

    def _written_slowly(self, rows: list[int], scores: list[float]) -> bytes:
        told = [each | UNEXPLAINED for each in self.described(rows, scores)]
        return orjson.dumps(told)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The item vectors of `rows`, (len(rows), d + r)."""
        vectors = self.edition.item_vectors[np.minimum(rows, self.n_base - 1)]
        behind = rows >= self.n_base
        if behind.any():
            vectors[behind] = self.added_vectors[rows[behind] - self.n_base]
        return vectors

    def filter(
        self,
        item_types: Sequence[str] | None,
        columns: Mapping[str, Sequence[str]] | None,
    ) -> RowFilter | None:
        """The rows of these types and with these values; made once and remembered.

        Raises:
            ProblemError: 422 for a type or a column that no item has.
        """
        if item_types is None and not columns:
            return None
        key = (
            None if item_types is None else tuple(sorted(item_types)),
            tuple(
                sorted((name, tuple(sorted(values))) for name, values in (columns or {}).items())
            ),
        )
        with self._lock:
            if (known := self._filters.get(key)) is not None:
                self._filters.move_to_end(key)
                return known
        mask = np.ones(len(self), np.bool_)
        if item_types is not None:
            mask &= self._of_types(item_types)
        for name, values in (columns or {}).items():
            mask &= self._of_values(name, values)
        made = RowFilter(mask)
        with self._lock:
            self._filters[key] = made
            if len(self._filters) > REMEMBERED_FILTERS:
                self._filters.popitem(last=False)
        return made

    def mask(self, where: Where) -> NDArray[np.bool_]:
        """(n,) the items of a rule; none of a type or a value that this edition lacks."""
        mask = np.ones(len(self), np.bool_)
        if where.item_types:
            known = [kind for kind in where.item_types if kind in self._types]
            mask &= self._of_types(known)
        for name, values in where.columns.items():
            if name not in self.columns:
                return np.zeros(len(self), np.bool_)
            mask &= self._of_values(name, values)
        return mask

    @property
    def columns(self) -> list[str]:
        """The categorical columns that items can be filtered by."""
        return [
            name for name, kind in self.edition.items.schema.items() if kind == pl.List(pl.String)
        ]

    @property
    def _types(self) -> set[str]:
        return {*self.edition.catalogue.types, *(item.item_type for item in self.added)}

    def _of_types(self, item_types: Sequence[str]) -> NDArray[np.bool_]:
        if unknown := sorted(set(item_types) - self._types):
            raise ProblemError(
                status=422,
                title="Unknown item type",
                detail=f"no item has type {unknown}; the catalogue has {sorted(self._types)}",
            )
        catalogue: Catalogue = self.edition.catalogue
        own = catalogue.mask([kind for kind in item_types if kind in catalogue.types])
        added = np.array([item.item_type in item_types for item in self.added], np.bool_)
        return np.concatenate([own, added])

    def _of_values(self, column: str, values: Sequence[str]) -> NDArray[np.bool_]:
        if column not in self.columns:
            raise ProblemError(
                status=422,
                title="Unknown column",
                detail=f"items have no categorical column '{column}'; they have {self.columns}",
            )
        wanted = pl.Series(values, dtype=pl.String)
        has = pl.col(column).list.set_intersection(wanted.implode()).list.len() > 0
        own = self.edition.items.select(has.fill_null(False)).to_series().to_numpy()
        added = np.array(
            [bool(set(item.columns.get(column, ())) & set(values)) for item in self.added],
            np.bool_,
        )
        return np.concatenate([own, added])
