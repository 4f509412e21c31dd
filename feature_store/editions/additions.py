"""Items that came and went since an edition was trained, and how they fold into the next one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from feature_store.editions.recommender import RecommenderEdition
from feature_store.interactions.catalogue import Catalogue
from feature_store.vectors import IndexSpec, VectorIndex

# An added item that came with a vector alone speaks, as history, as these nearest items do.
PROXIES = 5


@dataclass(frozen=True)
class AddedItem:
    """An item that the edition does not have.

    Attributes:
        like: items of the edition that it is like; its vector is their mean where it has none.
        vector: (d + r,) its own item vector.
        columns: its values in the categorical columns.
    """

    item_id: str
    item_type: str
    title: str | None = None
    like: tuple[str, ...] = ()
    vector: tuple[float, ...] | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def pack(self) -> bytes:
        """As JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def unpack(cls, raw: bytes) -> AddedItem:
        """Inverse of `pack`."""
        values = orjson.loads(raw)
        for name in ("like", "vector"):
            values[name] = None if values[name] is None else tuple(values[name])
        values["columns"] = {name: tuple(each) for name, each in values["columns"].items()}
        return cls(**values)


def place(
    edition: RecommenderEdition, item: AddedItem
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """An added item's vector, and the rows that speak for it as history."""
    d = edition.item_vectors.shape[1]
    near = edition.catalogue.rows(item.like)
    near = near[near >= 0]
    if item.vector is not None and len(item.vector) == d:
        vector = np.array(item.vector, np.float32)
        if len(near) == 0:
            _, rows = edition.index.search(vector[None], min(PROXIES, len(edition.catalogue)))
            near = rows[0][(rows[0] >= 0) & (rows[0] < len(edition.catalogue))]
        return vector, near
    if len(near) == 0:
        return None
    vectors = edition.item_vectors[near]
    mean = vectors.mean(0)
    length = np.linalg.norm(vectors, axis=1).mean() / max(float(np.linalg.norm(mean)), 1e-12)
    return (mean * length).astype(np.float32), near


def fold(
    edition: RecommenderEdition, added: Sequence[AddedItem], withdrawn: Collection[str]
) -> RecommenderEdition:
    """An edition that has the added items and lacks the withdrawn ones, with an exact index.

    Added items that the edition has, and those that nothing says where to place, are left out. As
    history an added item speaks with the mean of the items that it is like.
    """
    gone = set(withdrawn)
    placed = [
        (item, *where)
        for item in added
        if item.item_id not in edition.catalogue.row_of
        and item.item_id not in gone
        and (where := place(edition, item)) is not None
    ]
    kept = np.array([item_id not in gone for item_id in edition.catalogue.item_ids], np.bool_)
    if not placed and kept.all():
        return edition
    proxies = [rows for _, _, rows in placed]
    arrays = {
        name: _behind(getattr(edition, name)[kept], [getattr(edition, name)[p] for p in proxies])
        for name in ("history_vectors", "history_tail", "bias")
    }
    vectors = np.concatenate(
        [edition.item_vectors[kept], *(vector[None] for _, vector, _ in placed)]
    ).astype(np.float32)
    popularity = np.concatenate([edition.popularity[kept], np.zeros(len(placed))])
    items = pl.concat(
        [edition.items.filter(pl.Series(kept)), _table([item for item, _, _ in placed], edition)]
    ).with_row_index("row")
    items = items.sort("item_type", "item_id")
    order = items["row"].to_numpy()
    items = items.drop("row")
    vectors = vectors[order]
    places = np.full(len(kept), -1, np.int64)
    places[kept] = np.argsort(order)[: int(kept.sum())]
    catalogue = Catalogue.from_items(items)
    tower = edition.user_tower
    if catalogue.types != edition.catalogue.types:
        of = {kind: place for place, kind in enumerate(edition.catalogue.types)}
        tower = tower.with_types([of.get(kind, -1) for kind in catalogue.types])
    return replace(
        edition,
        catalogue=catalogue,
        user_tower=tower,
        items=items,
        item_vectors=vectors,
        popularity=popularity[order].astype(np.float32),
        index=VectorIndex.build(vectors, IndexSpec(kind="flat"), device="cpu"),
        item_map=edition.item_map and edition.item_map.renumbered(places),
        lists=edition.lists and edition.lists.renumbered(places, n_items=len(items)),
        **{name: each[order] for name, each in arrays.items()},
    )


def _behind(
    kept: NDArray[np.float32], of_proxies: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    means = [each.mean(0)[None] for each in of_proxies]
    return np.concatenate([kept, *means]).astype(np.float32)


def _table(added: Sequence[AddedItem], edition: RecommenderEdition) -> pl.DataFrame:
    title = edition.content.text_columns[0] if edition.content.text_columns else None
    rows = [
        {name: list(values) for name, values in item.columns.items()}
        | ({} if title is None else {title: item.title})
        | {"item_id": item.item_id, "item_type": item.item_type}
        for item in added
    ]
    schema = edition.items.schema
    columns = {name: [row.get(name) for row in rows] for name in schema}
    return pl.DataFrame(columns, schema=schema)
