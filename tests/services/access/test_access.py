"""Keys at the door of the real service."""

import time

import httpx
import pytest

from services.access import read_keys, write_keys

FEEDBACK = {"user_id": "u", "item_id": "i"}


def sent(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_without_a_key_only_the_probes_and_the_pages_answer(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/openapi.json").status_code == 200
    for method, path in [
        ("POST", "/v1/recommendations"),
        ("POST", "/v1/feedback"),
        ("GET", "/v1/models"),
        ("DELETE", "/v1/items/1"),
        ("GET", "/metrics"),
        ("POST", "/"),
    ]:
        answer = client.request(method, path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["instance"] == path


def test_every_route_that_is_not_a_page_is_behind_a_key(client: httpx.Client) -> None:
    # A path outside /v1 is open to everybody: each one here was looked at.
    pages = {"/healthz", "/readyz", "/docs", "/openapi.json", "/"}
    described = client.get("/openapi.json").json()["paths"]
    for path in described:
        assert path.startswith("/v1/") or path in pages | {"/metrics"}


@pytest.mark.parametrize(
    ("key", "status"), [("read", 403), ("feedback", 200), ("admin", 200), ("slow", 403)]
)
def test_feedback_needs_its_scope(client: httpx.Client, keys, key: str, status: int) -> None:
    answer = client.post("/v1/feedback", json=FEEDBACK, headers=sent(keys[key]))
    assert answer.status_code == status


@pytest.mark.parametrize(("key", "status"), [("read", 200), ("feedback", 403), ("admin", 200)])
def test_reading_needs_its_scope(client: httpx.Client, keys, key: str, status: int) -> None:
    assert client.get("/v1/models", headers={"x-api-key": keys[key]}).status_code == status


@pytest.mark.parametrize("key", ["read", "feedback"])
def test_changing_the_catalogue_and_reading_metrics_needs_admin(client, keys, key: str) -> None:
    assert client.delete("/v1/items/1", headers=sent(keys[key])).status_code == 403
    assert client.get("/metrics", headers=sent(keys[key])).status_code == 403
    assert client.get("/metrics", headers=sent(keys["admin"])).status_code == 200


@pytest.mark.parametrize("key", [".", "errata_", "x" * 5_000, "errata_ÿ"])
def test_a_wrong_key_is_refused(client: httpx.Client, key: str) -> None:
    headers = {"authorization": f"Bearer {key}".encode("latin-1")}
    assert client.get("/v1/models", headers=headers).status_code == 401


def test_a_key_is_revoked_and_issued_without_a_restart(client, keys, keys_file) -> None:
    before = read_keys(keys_file)
    write_keys(keys_file, [key for key in before if key.name != "read"])
    _until(lambda: client.get("/v1/models", headers=sent(keys["read"])).status_code == 401)
    assert client.get("/v1/models", headers=sent(keys["admin"])).status_code == 200
    write_keys(keys_file, before)
    _until(lambda: client.get("/v1/models", headers=sent(keys["read"])).status_code == 200)


def test_a_broken_file_changes_nothing(client, keys, keys_file, caplog) -> None:
    keys_file.write_text("{")
    _until(
        lambda: (
            client.get("/v1/models", headers=sent(keys["read"])).status_code == 200
            and "go on to count" in caplog.text
        )
    )


def test_a_key_asks_as_often_as_it_may(client: httpx.Client, keys) -> None:
    first = client.get("/v1/models", headers=sent(keys["slow"]))
    second = client.get("/v1/models", headers=sent(keys["slow"]))
    assert (first.status_code, second.status_code) == (200, 429)
    assert 1 <= int(second.headers["retry-after"]) <= 2
    assert client.get("/v1/models", headers=sent(keys["read"])).status_code == 200


def test_no_other_origin_is_invited(client: httpx.Client, keys) -> None:
    origin = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    asked = client.options("/v1/recommendations", headers=origin)
    read = client.get("/v1/models", headers=sent(keys["read"]) | origin)
    for answer in (asked, read):
        assert "access-control-allow-origin" not in answer.headers


def test_a_request_keeps_its_name_or_gets_one(client: httpx.Client) -> None:
    named = client.get("/healthz", headers={"x-request-id": "order-17"})
    assert named.headers["x-request-id"] == "order-17"
    forged = client.get("/healthz", headers={"x-request-id": 'a"} {"level":"error'})
    assert len(forged.headers["x-request-id"]) == 32
    refused = client.get("/v1/models")
    assert len(refused.headers["x-request-id"]) == 32


def _until(condition, *, deadline_s: float = 10.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
