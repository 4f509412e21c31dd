from dataclasses import replace

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.editions.additions import AddedItem
from services.recommend import item_texts
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


@pytest.mark.parametrize("at_once", [0, 1_000])
@given(data=st.data())
def test_a_written_answer_says_what_the_items_are(edition, at_once, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_texts, "WRITTEN_AT_ONCE", at_once)
        added = [AddedItem("new", item_type="film", title='n"ew', like=(first_item(edition),))]
        assortment = Assortment(edition, added=added)
        rows = data.draw(st.lists(st.integers(0, len(assortment) - 1), max_size=12, unique=True))
        scores = [float(row) / 8 for row in rows]
        expected = [
            {**item, "reasons": None, "corrections": None}
            for item in assortment.described(rows, scores)
        ]
        assert orjson.loads(assortment.written(rows, scores)) == expected
        assert orjson.loads(assortment.written(rows, scores)) == expected


def first_item(edition) -> str:
    return edition.catalogue.item_ids[0]
