"""Looking around: titles that match, some users and what they did, and the map of the items."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import numpy as np
import polars as pl
from fastapi import FastAPI, Path, Query
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from feature_store.editions.item_map import ItemMap
from services.problems import documented
from services.recommend.assortment import Assortment
from services.recommend.catalogue import CatalogueService
from services.recommend.schemas import ItemId, UserId

MAX_FOUND = 100
MAX_PLACED = 500
# Maps of versions that served lately.
_MAPS = 4


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class NamedItem(_Schema):
    """An item, as far as a person needs it to tell it from others."""

    item_id: str
    item_type: str | None = Field(description="None of an item that the version does not know.")
    title: str | None


class ItemsFound(_Schema):
    """Items whose titles match, the best matches first and among equals the most popular."""

    items: list[NamedItem]


class UsersFound(_Schema):
    """Some users who have a history, in no order."""

    users: list[str]
    degraded: bool


class HistoryEvent(NamedItem):
    """Something that a user did."""

    type: str
    timestamp_ms: int = Field(description="0 where the data have no time.")


class UserHistory(_Schema):
    """What is known of a user."""

    user_id: str
    events: list[HistoryEvent] = Field(description="Newest first.")
    hidden: list[NamedItem] = Field(description="What the user does not want to see.")
    degraded: bool


class MapPlace(_Schema):
    """A category where it is most typical."""

    name: str
    x: float
    y: float


class MapOfItems(_Schema):
    """Where items lie in a picture of the item space, in [0, 1] from the lower left."""

    model_version: str
    item_ids: list[str]
    titles: list[str | None]
    xy: list[tuple[float, float]]
    places: list[MapPlace]
    kinds: list[int] = Field(
        description="Of each item, which of the places is named after its category; -1: none is."
    )


class Maps:
    """The maps of the versions that serve; one that was published without is drawn when it is
    first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, ItemMap] = {}
        self._lock = threading.Lock()

    def of(self, assortment: Assortment, version: str) -> ItemMap:
        """The map of a version."""
        edition = assortment.base
        if edition.item_map is not None:
            return edition.item_map
        with self._lock:
            found = self._known.get(version)
            if found is None:
                found = ItemMap.of(edition.item_vectors, edition.popularity)
                while len(self._known) >= _MAPS:
                    self._known.pop(next(iter(self._known)))
                self._known[version] = found
            return found


def add_routes(app: FastAPI, chosen_catalogue: Any) -> None:
    """Add the routes; `chosen_catalogue` is the dependency that gives a `CatalogueService`."""
    maps = Maps()

    @app.get("/v1/items", tags=["browse"], responses=documented(404, 422, 503))
    def items(
        q: Annotated[
            str, Query(max_length=200, description="Words of the title; nothing: the popular.")
        ] = "",
        k: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 12,
        catalogue: CatalogueService = chosen_catalogue,
    ) -> ItemsFound:
        """Find items by their titles."""
        assortment = catalogue.served.assortment
        return ItemsFound(items=_named(assortment, matching(assortment, q, k)))

    @app.get("/v1/map", tags=["browse"], responses=documented(404, 422, 503))
    def item_map(
        item_id: Annotated[list[ItemId] | None, Query(max_length=MAX_PLACED)] = None,
        catalogue: CatalogueService = chosen_catalogue,
    ) -> MapOfItems:
        """Where items lie in the item space: those that are named, or the most popular ones with
        the names of the map's regions. Unknown ones are left out."""
        served = catalogue.served
        assortment = served.assortment
        found = maps.of(assortment, served.version)
        if item_id is None:
            rows, xy = found.rows, found.xy
            words = _words(assortment, rows)
            places = found.places(words)
        else:
            rows = np.array(assortment.rows(item_id), np.int64)
            xy, places, words = found.place(assortment.vectors(rows)), [], [[] for _ in rows]
        number_of = {each.name: number for number, each in enumerate(places)}
        return MapOfItems(
            model_version=served.version,
            item_ids=assortment.item_ids(rows.tolist()),
            titles=assortment.titles(rows.tolist()),
            xy=[(round(x, 4), round(y, 4)) for x, y in xy.tolist()],
            places=[MapPlace(name=each.name, x=each.x, y=each.y) for each in places],
            # The rarest category says most of an item; places are the most frequent first.
            kinds=[max((number_of.get(word, -1) for word in each), default=-1) for each in words],
        )

    @app.get("/v1/users", tags=["browse"], responses=documented(404, 422, 503))
    def users(
        k: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 12,
        catalogue: CatalogueService = chosen_catalogue,
    ) -> UsersFound:
        """Some users of whom something is known."""
        found = catalogue.users.sample(k)
        return UsersFound(users=found or [], degraded=found is None)

    @app.get(
        "/v1/users/{user_id:path}/history", tags=["browse"], responses=documented(404, 422, 503)
    )
    def history(
        user_id: Annotated[UserId, Path(examples=["196"])],
        k: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 50,
        catalogue: CatalogueService = chosen_catalogue,
    ) -> UserHistory:
        """What a user did last, and what the user does not want."""
        assortment = catalogue.served.assortment
        (known,) = catalogue.users.get([user_id])
        events = known.events[:k]
        met = [_item(assortment, event.item_id) for event in events]
        return UserHistory(
            user_id=user_id,
            events=[
                HistoryEvent(
                    **item.model_dump(), type=event.type, timestamp_ms=int(event.timestamp_ms)
                )
                for item, event in zip(met, events, strict=True)
            ],
            hidden=[_item(assortment, each) for each in known.hidden[-k:]],
            degraded=known.degraded,
        )


def matching(assortment: Assortment, query: str, k: int) -> list[int]:
    """Rows of the items whose title has every word of `query`, or whose id it is.

    Titles that begin with it come first, then those in which a word does, then the others; the
    more popular first among each.
    """
    edition = assortment.edition
    popularity = pl.Series("popularity", edition.popularity)
    titles = pl.Series("title", assortment.titles(list(range(len(assortment)))), pl.String)
    wanted = query.strip().lower()
    frame = pl.DataFrame([titles.str.to_lowercase().fill_null(""), popularity]).with_row_index()
    title = pl.col("title")
    for word in wanted.split():
        frame = frame.filter(title.str.contains(word, literal=True))
    rank = (
        pl.when(title.str.starts_with(wanted))
        .then(0)
        .when(title.str.contains(" " + wanted, literal=True))
        .then(1)
        .otherwise(2)
    )
    ordered = frame.select("index", "popularity", rank=rank).sort(
        "rank", "popularity", "index", descending=[False, True, False]
    )
    found: list[int] = ordered["index"].head(k).to_list()
    row = assortment.row(query.strip())
    return [row, *(each for each in found if each != row)][:k] if row >= 0 else found


def _named(assortment: Assortment, rows: list[int]) -> list[NamedItem]:
    return [
        NamedItem(item_id=item_id, item_type=item_type, title=title)
        for item_id, item_type, title in zip(
            assortment.item_ids(rows),
            assortment.item_types(rows),
            assortment.titles(rows),
            strict=True,
        )
    ]


def _item(assortment: Assortment, item_id: str) -> NamedItem:
    row = assortment.row(item_id)
    if row < 0:
        return NamedItem(item_id=item_id, item_type=None, title=None)
    return _named(assortment, [row])[0]


def _words(assortment: Assortment, rows: NDArray[np.int64]) -> list[list[str]]:
    """What the regions of the map may be named after: the values of the categorical column with
    the fewest, or the types of the items."""
    items = assortment.base.items
    values = {name: items[name].explode().n_unique() for name in assortment.columns}
    telling = [name for name, n in values.items() if n > 2]
    if not telling:
        return [[kind] for kind in items["item_type"].gather(rows).to_list()]
    column = items[min(telling, key=lambda name: values[name])].gather(rows)
    return [list(each) if each is not None else [] for each in column.to_list()]
