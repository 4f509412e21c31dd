from contextlib import nullcontext

from fastapi.testclient import TestClient
from pydantic import BaseModel

from services.application import Application
from services.recommend.direct import direct


class Ask(BaseModel):
    number: int


async def inverse(_, asked: Ask) -> bytes:
    return str(1 / asked.number).encode()


def test_a_failure_that_nobody_foresaw_is_a_problem_document():
    app = Application()
    route = direct(Ask, inverse, timed=lambda _: nullcontext())
    app.router.add_api_route("/inverse", list, methods=["POST"], route_class_override=route)
    with TestClient(app) as client:
        assert client.post("/inverse", json={"number": 4}).json() == 0.25
        failed = client.post("/inverse", json={"number": 0})
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert failed.json()["instance"] == "/inverse"
        # And it goes on.
        assert client.post("/inverse", json={"number": 2}).json() == 0.5
        assert client.post("/inverse", json={"number": "two"}).status_code == 422
