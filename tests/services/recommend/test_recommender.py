"""What is remembered of users changes nothing of what they are answered."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions import RecommenderEdition
from feature_store.online import Event
from feature_store.online.records import StoredUser
from services.recommend.loading import Served
from services.recommend.recommender import Recommendation, recommend
from services.recommend.schemas import RecommendationRequest
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser
from tests.services.recommend.conftest import make_edition

EDITIONS = [make_edition(0), make_edition(1)]
VERSIONS = [Served.of(each, version=str(at), wanted=str(at)) for at, each in enumerate(EDITIONS)]
ITEMS = EDITIONS[0].catalogue.item_ids
SOME = st.lists(st.sampled_from(ITEMS), max_size=4, unique=True)


def stored(edition: RecommenderEdition, user: int) -> StoredUser:
    """User 0 has no history, the others have more and more of one."""
    ids = edition.catalogue.item_ids[user * 7 : user * 7 + 2 * user]
    events = b",".join(Event(each, 0).pack() for each in ids)
    return StoredUser(history=b"[" + events + b"]")


@settings(deadline=None)  # the first call compiles
@given(
    batches=st.lists(
        st.tuples(st.integers(0, 1), st.lists(st.tuples(st.integers(0, 4), SOME), min_size=1)),
        min_size=1,
        max_size=6,
    )
)
def test_users_who_are_remembered_get_what_they_would_get_otherwise(batches):
    remembered = [KnownUser(stored(EDITIONS[0], user)) for user in range(5)]
    for version, asked in batches:
        requests = [RecommendationRequest(user_id=f"u{u}", history=h, k=5) for u, h in asked]
        together = recommend(
            VERSIONS[version], requests, [remembered[user] for user, _ in asked], Telemetry()
        )
        for request, (user, _), answer in zip(requests, asked, together, strict=True):
            anew = KnownUser(stored(EDITIONS[0], user))
            (alone,) = recommend(VERSIONS[version], [request], [anew], Telemetry())
            assert isinstance(alone, Recommendation)
            assert isinstance(answer, Recommendation)
            assert answer.rows.tolist() == alone.rows.tolist()
            assert answer.personalised == alone.personalised


def test_features_that_are_sent_stand_in_place_of_the_stored_ones_even_if_there_are_none():
    def seen(sent):
        known = KnownUser(StoredUser(features=b'{"city": "Delft"}'))
        request = RecommendationRequest(user_id="u", features=sent, k=5)
        (answer,) = recommend(VERSIONS[0], [request], [known], Telemetry())
        assert isinstance(answer, Recommendation)
        return answer.features

    assert seen(None) == {"city": "Delft"}
    assert seen({"city": "Mainz"}) == {"city": "Mainz"}
    assert seen({}) == {}
