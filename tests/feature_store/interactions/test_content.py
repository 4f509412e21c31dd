import numpy as np
import polars as pl
import pytest

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec, WordLlamaEncoder, in_row_order

ITEMS = pl.DataFrame(
    {
        "item_id": ["b", "a", "c"],
        "item_type": ["film", "film", "book"],
        "title": ["Star Wars", "Return of the Jedi", None],
        "genre": [["sci-fi", "war"], ["sci-fi"], ["war", "rare"]],
    }
)


@pytest.fixture(scope="module")
def encoder() -> WordLlamaEncoder:
    return WordLlamaEncoder()


def test_near_texts_have_near_vectors(encoder):
    space, sequel, cooking = encoder.encode(["Star Wars", "Star Trek", "Italian cooking at home"])
    assert space @ sequel > space @ cooking
    np.testing.assert_allclose(np.linalg.norm(space), 1, atol=1e-3)
    assert not encoder.encode([" "]).any()


def test_content_is_text_then_categories(encoder):
    spec = ContentSpec.fit(ITEMS, text_dimension=encoder.dimension)
    assert spec.text_columns == ("title",)
    assert spec.vocabulary == {"item_type": ("book", "film"), "genre": ("sci-fi", "war")}
    content = spec.encode(ITEMS, encoder)
    assert content.shape == (3, spec.dimension)
    film = content[0, encoder.dimension :]
    np.testing.assert_allclose(film, [0, 1, 2**-0.5, 2**-0.5], atol=1e-6)
    assert not content[2, : encoder.dimension].any()


def test_a_new_item_is_encoded_with_the_old_vocabulary(encoder):
    spec = ContentSpec.fit(ITEMS, text_dimension=encoder.dimension)
    new = pl.DataFrame(
        {"item_id": ["z"], "item_type": ["song"], "title": ["Jedi"], "genre": [["war"]]}
    )
    encoded = spec.encode(new, encoder)[0, encoder.dimension :]
    np.testing.assert_allclose(encoded, [0, 0, 0, 1])


def test_items_without_text_need_no_encoder():
    table = ITEMS.select("item_id", "item_type", "genre")
    spec = ContentSpec.fit(table, text_dimension=256)
    assert spec.encode(table, None).shape == (3, 4)


def test_rows_follow_the_catalogue():
    catalogue = Catalogue.from_items(ITEMS)
    assert catalogue.item_ids == ("c", "a", "b")
    assert in_row_order(ITEMS, catalogue)["item_id"].to_list() == ["c", "a", "b"]
    assert catalogue.ranges == {"book": range(0, 1), "film": range(1, 3)}
    assert catalogue.rows(["b", "nope"]).tolist() == [2, -1]
    with pytest.raises(ValueError, match="song"):
        catalogue.mask(["song"])
