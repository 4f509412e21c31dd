"""Items that only a list reaches, over HTTP."""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
import scipy.sparse as sp

from feature_store.editions.neighbour_lists import NeighbourLists
from tests.services.recommend.conftest import make_edition, publish, serving
from tests.services.recommend.test_recommendations import ask, ids
from tests.services.recommend.test_serving import eventually

HEARD, REACHED = "film-war-01", ("book-sea-07", "film-love-03")


@pytest.fixture
def client(registry, settings, tmp_path) -> Iterator[httpx.Client]:
    """Search fetches a few of its genre; the lists of one film name two items of other genres."""
    edition = make_edition()
    row, n = edition.catalogue.row_of, len(edition.catalogue)
    pairs = ([90.0, 80.0], ([row[HEARD]] * 2, [row[each] for each in REACHED]))
    edition = replace(
        edition,
        scoring=edition.scoring.model_copy(update={"candidates": 12}),
        lists=NeighbourLists.of(sp.csr_matrix(pairs, shape=(n, n), dtype="float32")),
    )
    publish(registry, tmp_path / "staging", edition=edition)
    with serving(settings()) as client:
        yield client


def test_an_item_that_only_a_list_reaches_is_served_and_explained(client):
    plain = ask(client, history=["film-war-02"], k=3)
    assert not set(REACHED) & set(ids(plain))
    answer = ask(client, history=[HEARD], k=3, explain=True)
    assert ids(answer)[:2] == list(REACHED)
    assert "-war-" in ids(answer)[2]
    assert [each["item_id"] for each in answer["items"][0]["reasons"]] == [HEARD]
    assert answer["items"][0]["reasons"][0]["contribution"] == pytest.approx(9.0, abs=1.0)


def test_filters_and_exclusions_hold_for_what_lists_reach(client):
    assert ids(ask(client, history=[HEARD], k=3, item_types=["film"]))[0] == REACHED[1]
    assert ids(ask(client, history=[HEARD], k=3, exclude=[REACHED[0]]))[0] == REACHED[1]
    seen = ask(client, history=[HEARD, REACHED[0]], k=3)
    assert ids(seen)[0] == REACHED[1]
    gone = client.delete(f"/v1/items/{REACHED[0]}")
    assert gone.status_code == 200
    eventually(lambda: ids(ask(client, history=[HEARD], k=3))[0] == REACHED[1])
    assert REACHED[0] not in ids(ask(client, history=[HEARD], k=50))
