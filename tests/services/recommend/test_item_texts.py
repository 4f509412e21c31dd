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


@settings(deadline=None)  # the first call compiles
@given(
    with_added=st.booleans(),
    places=st.lists(st.tuples(st.integers(0, 10_000), SCORES), max_size=12),
)
def test_a_written_answer_says_what_the_items_are(edition, with_added, places):
    added = [AddedItem("new", item_type="film", title='n"ew', like=(first_item(edition),))]
    assortment = Assortment(edition, added=added if with_added else [])
    rows = [len(assortment) - 1 - place % len(assortment) for place, _ in places]
    scores = np.array([score for _, score in places], np.float32)
    told = orjson.loads(assortment.written(np.array(rows, np.int64), scores))
    assert [score_less(each) for each in told] == [
        {**score_less(item), "reasons": None, "corrections": None}
        for item in assortment.described(rows, [0.0] * len(rows))
    ]
    expected = orjson.loads(orjson.dumps(scores.astype(np.float64).tolist()))
    for item, score in zip(told, expected, strict=True):
        assert item["score"] == (None if score is None else pytest.approx(score, abs=5.1e-6))


def score_less(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "score"}


def first_item(edition) -> str:
    return edition.catalogue.item_ids[0]
