"""What an item is, before anyone met it: its text and categories as one vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from feature_store.interactions.catalogue import Catalogue

FloatArray = NDArray[np.float32]


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """(len(texts), dimension) float32; an empty text gives zeros, others unit length."""
        ...


class WordLlamaEncoder:
    """Static word embeddings whose weights are inside the `wordllama` wheel: no download."""

    dimension = 256

    def __init__(self) -> None:
        import wordllama

        self._model = wordllama.WordLlama.load(
            cache_dir=Path(wordllama.__file__).parent, dim=self.dimension, disable_download=True
        )

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """See `TextEncoder`."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        filled = [row for row, text in enumerate(texts) if text.strip()]
        if filled:
            encoded = self._model.embed([texts[row] for row in filled], norm=True)
            vectors[filled] = np.nan_to_num(encoded)
        return vectors


class ContentSpec(BaseModel):
    """How items become vectors: fixed when a model is trained, kept with it, used for new items.

    Attributes:
        text_columns: joined in this order into the text that is encoded.
        vocabulary: categorical column → its known values; the item type is column `item_type`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_columns: tuple[str, ...]
    vocabulary: dict[str, tuple[str, ...]]
    text_dimension: int

    @classmethod
    def fit(
        cls, items: pl.DataFrame, *, text_dimension: int, min_count: int = 2, max_values: int = 512
    ) -> ContentSpec:
        """Take every text column, and each categorical column's values that at least `min_count`
        items have, at most `max_values`, the most frequent first."""
        text = [
            name
            for name, kind in items.schema.items()
            if kind == pl.String and name not in ("item_id", "item_type")
        ]
        vocabulary = {"item_type": tuple(sorted(items["item_type"].unique().to_list()))}
        for name, kind in items.schema.items():
            if kind == pl.List(pl.String):
                counts = Counter(items[name].explode().drop_nulls().to_list())
                frequent = [value for value, count in counts.items() if count >= min_count]
                frequent.sort(key=lambda value: (-counts[value], value))
                vocabulary[name] = tuple(frequent[:max_values])
        return cls(
            text_columns=tuple(text),
            vocabulary=vocabulary,
            text_dimension=text_dimension if text else 0,
        )

    @property
    def dimension(self) -> int:
        """Length of an item's content vector."""
        return self.text_dimension + sum(len(values) for values in self.vocabulary.values())

    def texts(self, items: pl.DataFrame) -> list[str]:
        """The text of each item."""
        columns = [pl.col(name).fill_null("") for name in self.text_columns]
        joined = items.select(pl.concat_str(columns, separator=". ")).to_series()
        return [str(text).strip(" .") for text in joined]

    def encode(self, items: pl.DataFrame, encoder: TextEncoder | None) -> FloatArray:
        """(len(items), dimension) float32: the text's unit vector, then per categorical column a
        unit vector over the values that the item has.

        Raises:
            ValueError: there is text and no encoder of the trained dimension.
        """
        parts = []
        if self.text_columns:
            if encoder is None or encoder.dimension != self.text_dimension:
                raise ValueError(f"the text needs an encoder of dimension {self.text_dimension}")
            parts.append(encoder.encode(self.texts(items)))
        for name, values in self.vocabulary.items():
            parts.append(
                _multi_hot(items[name] if name in items.columns else None, values, len(items))
            )
        return np.concatenate(parts, axis=1).astype(np.float32)


def in_row_order(items: pl.DataFrame, catalogue: Catalogue) -> pl.DataFrame:
    """The items table sorted as the catalogue's rows."""
    rows = pl.DataFrame({"item_id": catalogue.item_ids}, schema={"item_id": pl.String})
    return rows.join(items, on="item_id", how="left", maintain_order="left")


def _multi_hot(column: pl.Series | None, values: Sequence[str], n_items: int) -> FloatArray:
    hot = np.zeros((n_items, len(values)), np.float32)
    if column is None or not values:
        return hot
    position = {value: index for index, value in enumerate(values)}
    for row, cell in enumerate(column.to_list()):
        for value in [cell] if isinstance(cell, str) else (cell or ()):
            if value in position:
                hot[row, position[value]] = 1.0
    norms = np.linalg.norm(hot, axis=1, keepdims=True)
    unit: FloatArray = (hot / np.maximum(norms, 1.0)).astype(np.float32)
    return unit
