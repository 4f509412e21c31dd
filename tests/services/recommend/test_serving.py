"""Swaps, sides, catalogues, rules, limits: what an operator relies on."""

import threading
from collections import Counter
from dataclasses import replace

import httpx
import numpy as np
import polars as pl
import pytest

from feature_store.editions import RecommenderEdition
from feature_store.registry import Registry
from services.recommend.settings import Boost, CatalogueSettings, Limits, Rules, Where
from tests.patience import within

from .conftest import make_edition, publish, serving

eventually = within(20)

WAR = ["film-war-01", "film-war-02", "film-war-03"]


def ask(client, headers=None, **body):
    response = client.post("/v1/recommendations", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


def serving_version(client):
    return client.get("/healthz").json()["model_version"]


def test_ten_swaps_under_load_fail_nobody(registry, settings, tmp_path):
    versions = [publish(registry, tmp_path / str(n), seed=n) for n in range(2)]
    statuses: Counter[int] = Counter()
    seen = set()
    stop = threading.Event()
    with serving(settings()) as client:

        def load():
            with httpx.Client(base_url=client.base_url, timeout=30) as own:
                while not stop.is_set():
                    answer = own.post("/v1/recommendations", json={"history": WAR, "k": 5})
                    statuses[answer.status_code] += 1
                    seen.add(answer.json()["model_version"])

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(10):
            wanted = versions[number % 2]
            registry.promote("recommender", wanted, alias="champion")
            eventually(lambda wanted=wanted: serving_version(client) == wanted)
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert seen == set(versions)


def test_a_version_that_fails_its_warm_up_never_serves(registry, settings, tmp_path):
    good = publish(registry, tmp_path / "one")
    with serving(settings()) as client:
        ask(client, history=WAR)
        edition = make_edition(1)
        edition.bias[:] = np.nan  # its files are whole, its answers are not
        edition.save(tmp_path / "two")
        bad = registry.publish(
            "recommender",
            tmp_path / "two",
            data_fingerprint="test",
            code_version="test",
            config={},
            metrics={},
        ).version
        registry.promote("recommender", bad, alias="champion")
        eventually(lambda: client.get("/readyz").json()["status"] == "degraded")
        assert bad in client.get("/readyz").json()["reasons"][0]
        answer = ask(client, history=WAR, k=3)
        assert answer["model_version"] == good
        assert answer["degraded"]


def test_a_version_whose_items_are_all_withdrawn_serves_and_finds_nothing(
    registry, settings, tmp_path
):
    publish(registry, tmp_path / "one")
    with serving(settings()) as client:
        for item_id in make_edition(0).catalogue.item_ids:
            client.delete(f"/v1/items/{item_id}").raise_for_status()
        second = publish(registry, tmp_path / "two", seed=1)
        eventually(lambda: serving_version(client) == second)
        assert ask(client, history=WAR, k=3)["items"] == []
        assert client.get("/readyz").json()["status"] == "ok"


def test_a_share_of_the_users_meets_the_challenger_and_keeps_meeting_it(
    registry, settings, tmp_path
):
    challenger = publish(registry, tmp_path / "one", seed=1)
    registry.promote("recommender", challenger, alias="challenger")
    champion = publish(registry, tmp_path / "two")
    sides = CatalogueSettings(challenger="challenger", challenger_share=0.3)
    with serving(settings(catalogues={"default": sides})) as client:
        versions = [
            {ask(client, user_id=f"user {n}", k=1)["model_version"] for _ in range(2)}
            for n in range(100)
        ]
        assert all(len(each) == 1 for each in versions)
        met = Counter(each.pop() for each in versions)
        assert set(met) == {champion, challenger}
        assert 15 <= met[challenger] <= 45
        assert ask(client, k=1)["model_version"] == champion  # nobody in particular
        text = client.get("/metrics").text
        assert f'version="{challenger}"' in text
        assert 'arm="challenger"' in text


def test_outcomes_are_counted_by_the_version_that_served(client):
    answer = ask(client, user_id="u", k=1)
    body = {"user_id": "u", "item_id": ids(answer)[0], "prediction_id": answer["prediction_id"]}
    assert client.post("/v1/feedback", json=body).json()["known_prediction"]
    text = client.get("/metrics").text
    wanted = f'catalogue="default",type="click",version="{answer["model_version"]}"'
    assert f"errata_outcomes_total{{{wanted}}} 1.0" in text


def test_catalogues_by_name_have_versions_and_users_of_their_own(
    registry, settings, tmp_path, redis_client
):
    first = publish(registry, tmp_path / "one")
    other = Registry(tmp_path / "registry")
    make_edition(1).save(tmp_path / "two")
    second = other.publish(
        "books",
        tmp_path / "two",
        data_fingerprint="test",
        code_version="test",
        config={},
        metrics={},
    ).version
    other.promote("books", second, alias="champion")
    books = CatalogueSettings(model="books", tenant="books")
    header = {"errata-catalogue": "books"}
    with serving(settings(catalogues={"books": books})) as client:
        assert ask(client, k=1)["model_version"] == first
        assert ask(client, header, k=1)["model_version"] == second
        click = {"user_id": "u", "item_id": "film-sea-07"}
        client.post("/v1/feedback", json=click, headers=header)
        assert ask(client, header, user_id="u")["personalised"]
        assert not ask(client, user_id="u")["personalised"]
        unknown = client.post("/v1/recommendations", json={}, headers={"errata-catalogue": "x"})
        assert unknown.status_code == 404
        assert "['books', 'default']" in unknown.json()["detail"]


def test_an_item_is_added_and_withdrawn_between_two_builds(client):
    new = {"item_type": "film", "title": "a new one", "like": WAR}
    change = client.put("/v1/items/brand-new", json=new)
    assert change.status_code == 200, change.text
    eventually(lambda: "brand-new" in ids(ask(client, history=WAR, k=5)))
    answer = ask(client, history=WAR, k=5)
    told = next(item for item in answer["items"] if item["item_id"] == "brand-new")
    assert told["title"] == "a new one"
    # A click on it speaks as a click on what it is like, and it is not returned again.
    client.post("/v1/feedback", json={"user_id": "u", "item_id": "brand-new"})
    known = ask(client, user_id="u", k=10)
    assert all("-war-" in each for each in ids(known))
    assert client.get("/v1/items/brand-new/similar", params={"k": 3}).status_code == 200

    assert client.delete("/v1/items/brand-new").json()["status"] == "withdrawn"
    assert client.delete("/v1/items/film-war-05").status_code == 200
    eventually(lambda: "film-war-05" not in ids(ask(client, history=WAR, k=200)))
    everything = ids(ask(client, history=WAR, k=200))
    assert "brand-new" not in everything
    assert len(everything) == 116  # 120, less three seen and one withdrawn


def test_an_item_that_nothing_places_is_refused(client):
    refused = client.put("/v1/items/x", json={"item_type": "film", "like": ["no-such-item"]})
    assert refused.status_code == 422
    assert "give a vector" in refused.json()["detail"]


def test_columns_filter_inside_the_search(registry, settings, tmp_path):
    publish(registry, tmp_path / "one")
    with serving(settings()) as client:
        refused = client.post("/v1/recommendations", json={"where": {"colour": ["red"]}})
        assert refused.status_code == 422
        answer = ask(client, history=WAR, k=60, where={"genre": ["sea"]})
        assert len(answer["items"]) == 40
        assert all("-sea-" in each for each in ids(answer))
        both = ask(client, history=WAR, k=60, where={"genre": ["sea"]}, item_types=["book"])
        assert len(both["items"]) == 20


def test_rules_block_boost_cap_and_spread(registry, settings, tmp_path):
    publish(registry, tmp_path / "one")

    def answer(**rules):
        chosen = CatalogueSettings(rules=Rules(**rules))
        with serving(settings(catalogues={"default": chosen})) as client:
            return ask(client, history=WAR, k=12, explain=True)

    blocked = answer(block=(Where(item_types=("film",)),))
    assert {item["item_type"] for item in blocked["items"]} == {"book"}

    boosted = answer(boost=(Boost(where=Where(columns={"genre": ("love",)}), add=50.0),))
    assert all("-love-" in each for each in ids(boosted))
    assert boosted["items"][0]["corrections"] == [{"by": "rules", "added": 50.0}]

    capped = answer(type_caps={"film": 2})
    assert Counter(item["item_type"] for item in capped["items"]) == {"film": 2, "book": 10}

    alone = {each.split("-")[1] for each in ids(answer())}
    spread = {each.split("-")[1] for each in ids(answer(diversity=0.9))}
    assert alone == {"war"}
    assert spread == {"war", "sea", "love"}


def test_a_body_over_the_limit_is_refused_however_it_comes(registry, settings, tmp_path):
    publish(registry, tmp_path / "one")
    with serving(settings(limits=Limits(max_body_bytes=1_000, deadline_ms=20_000))) as client:
        large = b'{"history": ["' + b"x" * 2_000 + b'"]}'
        whole = client.post("/v1/recommendations", content=large)
        chunked = client.post("/v1/feedback", content=(large[:500], large[500:]))
        for refused in (whole, chunked):
            assert refused.status_code == 413
            assert refused.json()["title"] == "Body too large"
        assert ask(client, k=1)["items"]


def test_too_many_requests_are_refused_at_once_and_it_recovers(registry, settings, tmp_path):
    publish(registry, tmp_path / "one")
    limits = Limits(max_queue=2, max_batch=1, deadline_ms=20_000)
    statuses: Counter[int] = Counter()
    refused: list[httpx.Response] = []
    with serving(settings(limits=limits)) as client:

        def load():
            with httpx.Client(base_url=client.base_url, timeout=30) as own:
                for _ in range(30):
                    answer = own.post("/v1/recommendations", json={"history": WAR, "k": 100})
                    statuses[answer.status_code] += 1
                    if answer.status_code != 200:
                        refused.append(answer)

        threads = [threading.Thread(target=load) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 503}
        assert all(each.headers["retry-after"] == "1" for each in refused)
        assert refused[0].headers["content-type"] == "application/problem+json"
        assert ask(client, history=WAR, k=5)["items"]
        assert 'errata_refused_requests_total{reason="queue"}' in client.get("/metrics").text


def test_the_documentation_needs_no_network(client):
    page = client.get("/docs").text
    assert "https://" not in page
    script = page.split('src="')[1].split('"')[0]
    assert client.get(script).status_code == 200


def test_the_liveness_answer_names_the_version(client):
    assert client.get("/healthz").json()["model_version"] == ask(client)["model_version"]


@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/feedback"])
def test_what_is_no_json_is_a_problem_document(client, path):
    refused = client.post(path, content=b"{not json", headers={"content-type": "application/json"})
    assert refused.status_code == 422
    assert refused.json()["title"] == "Invalid request"


def test_two_versions_of_one_catalogue_hold_its_items_once(tmp_path):
    edition = make_edition(0)
    edition.save(tmp_path / "one")
    make_edition(1).save(tmp_path / "two")
    one = RecommenderEdition.load(tmp_path / "one", device="cpu")
    two = RecommenderEdition.load(tmp_path / "two", device="cpu", like=one)
    assert two.items is one.items
    assert two.catalogue is one.catalogue
    np.testing.assert_array_equal(two.types.numpy(), one.types.numpy())
    renamed = edition.items.with_columns(title=pl.lit("another"))
    replace(edition, items=renamed).save(tmp_path / "three")
    three = RecommenderEdition.load(tmp_path / "three", device="cpu", like=one)
    assert three.items["title"].to_list() == ["another"] * len(renamed)
