"""Data sets with several item types, as the sparse-type and cold-item benchmarks read them."""

from __future__ import annotations

from pathlib import Path

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers import import_dataset
from feature_store.interactions.importers.tabular import TableMapping, TabularImporter

ANIME = (
    TableMapping(
        file="anime_history.dat",
        table="interactions",
        rename={"User_ID": "user_id", "Anime_ID": "item_id"},
    ),
    TableMapping(
        file="anime_info.dat",
        table="items",
        rename={"anime_ids": "item_id", "type": "item_type"},
        text=("name",),
        categorical={"genre": ","},
    ),
)


def read(folder: Path) -> Dataset:
    """The anime set, a folder with one `user item 1` set per item type, or any known format."""
    if (folder / "anime_history.dat").exists():
        return import_dataset(folder, format=TabularImporter(ANIME))
    if any(folder.glob("*/train.txt")):
        return import_dataset(folder, format="triples")
    return import_dataset(folder)


def sparsest_type(dataset: Dataset) -> str:
    """The item type with the fewest interactions."""
    typed = dataset.interactions.join(dataset.items, on="item_id").group_by("item_type").len()
    return str(typed.sort("len", "item_type")["item_type"][0])
