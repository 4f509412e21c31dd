from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.additions import AddedItem
from services.recommend.assortment import Assortment
from tests.services.recommend.conftest import make_edition

ODD_TITLES = ['"', "\\", "é\n\x01", "", None, "\U0001f600", "a,b}", "</script>"]


@pytest.fixture(scope="module")
def edition():
    edition = make_edition()
    titles = (ODD_TITLES * len(edition.items))[: len(edition.items)]
    column = edition.content.text_columns[0]
    return replace(
        edition, items=edition.items.with_columns(pl.Series(column, titles, dtype=pl.String))
    )


SCORES = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([0.0, -0.0, 1e-7, -1e-7, 0.99999499, 123.0, 1e13, -3e38, float("nan")]),
)


LISTS = st.lists(st.lists(st.tuples(st.integers(0, 10_000), SCORES), max_size=12), max_size=4)


@settings(deadline=None)  # the first call compiles
@given(with_added=st.booleans(), lists=LISTS)
def test_written_lists_say_what_the_items_are(edition, with_added, lists):
    added = [AddedItem("new", item_type="film", title='n"ew', like=(first_item(edition),))]
    assortment = Assortment(edition, added=added if with_added else [])
    rows = np.full((len(lists), 13), -1, np.int64)
    scores = np.full(rows.shape, -np.inf, np.float32)
    for number, each in enumerate(lists):
        rows[number, : len(each)] = [
            len(assortment) - 1 - place % len(assortment) for place, _ in each
        ]
        scores[number, : len(each)] = [score for _, score in each]
    counts = np.array([len(each) for each in lists], np.int64)
    all_written = assortment.written(rows, scores, counts)
    assert len(all_written) == len(lists)
    for written, mine, loud, n in zip(all_written, rows, scores, counts, strict=True):
        told = orjson.loads(written)
        described = assortment.described(mine[:n].tolist(), [0.0] * n)
        assert [score_less(each) for each in told] == [
            {**score_less(item), "reasons": None, "corrections": None} for item in described
        ]
        expected = orjson.loads(orjson.dumps(loud[:n].astype(np.float64).tolist()))
        for item, score in zip(told, expected, strict=True):
            assert item["score"] == (None if score is None else pytest.approx(score, abs=5.1e-6))


def score_less(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "score"}


def first_item(edition) -> str:
    return edition.catalogue.item_ids[0]
