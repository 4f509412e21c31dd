"""Items that came and went since the serving version was built."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import redis

from feature_store.editions.additions import AddedItem
from feature_store.online import CatalogueChanges, Changes
from services.problems import ProblemError
from services.recommend.loading import Served
from services.recommend.schemas import ItemChange, ItemRequest

log = logging.getLogger(__name__)


class ItemChanges:
    """The changes that this process knows of, and how others come to know of one."""

    def __init__(self, store: CatalogueChanges) -> None:
        """Knows of none until `read`."""
        self._store = store
        self._changes = Changes()

    @property
    def added(self) -> list[AddedItem]:
        """Items that came; one that cannot be read is left out."""
        items = []
        for item_id, raw in self._changes.added:
            try:
                items.append(AddedItem.unpack(raw))
            except (ValueError, TypeError, KeyError) as error:
                log.error("the added item %s is unreadable and was left out: %s", item_id, error)
        return items

    @property
    def withdrawn(self) -> Sequence[str]:
        """Ids of items that went."""
        return self._changes.withdrawn

    def read(self) -> bool:
        """Look at Redis; whether something changed."""
        try:
            changes = self._store.since(self._changes.revision)
        except redis.RedisError as error:
            log.warning("the catalogue's changes could not be read: %s", error)
            return False
        if changes is None:
            return False
        self._changes = changes
        return True

    def add(self, served: Served, item_id: str, request: ItemRequest) -> ItemChange:
        """Answer `PUT /v1/items/{id}`; `served` says what the item can be placed by.

        Raises:
            ProblemError: 422 where nothing says how to place it, 503 while Redis is away.
        """
        item = AddedItem(
            item_id=item_id,
            item_type=request.item_type,
            title=request.title,
            like=tuple(request.like),
            vector=None if request.vector is None else tuple(request.vector),
            columns={name: tuple(values) for name, values in request.columns.items()},
        )
        edition = served.assortment.base
        width = edition.item_vectors.shape[1]
        if item.vector is not None and len(item.vector) != width:
            raise ProblemError(
                status=422,
                title="Wrong vector",
                detail=f"a vector of {width} numbers was wanted, got {len(item.vector)}",
            )
        known = served.assortment.row(item_id) >= 0 or any(
            each in edition.catalogue.row_of for each in item.like
        )
        if item.vector is None and not known:
            raise ProblemError(
                status=422,
                title="Nothing to place the item by",
                detail=f"version {served.version} knows none of the items in `like`; name one that "
                "it knows, or give a vector",
            )
        return _made(lambda: self._store.add(item_id, item.pack()), item_id, "added")

    def withdraw(self, item_id: str) -> ItemChange:
        """Answer `DELETE /v1/items/{id}`.

        Raises:
            ProblemError: 503 while Redis is away.
        """
        return _made(lambda: self._store.withdraw(item_id), item_id, "withdrawn")


def _made(change: Callable[[], int], item_id: str, status: str) -> ItemChange:
    try:
        revision = change()
    except redis.RedisError as error:
        raise ProblemError(
            status=503,
            title="Redis is unreachable",
            detail="the change was not made: the catalogue's changes are kept in Redis",
        ) from error
    return ItemChange.model_validate({"item_id": item_id, "status": status, "revision": revision})
