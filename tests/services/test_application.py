from fastapi import Request
from fastapi.testclient import TestClient

from services.application import Application


class _Marks:
    """Adds its letter to what the route is told of the way, and answers `/own` by itself."""

    def __init__(self, app, *, letter: str) -> None:
        self._app, self._letter = app, letter

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            scope["way"] = scope.get("way", "") + self._letter
            if scope["path"] == f"/{self._letter}":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": scope["way"].encode()})
                return
        await self._app(scope, receive, send)


def test_what_is_put_before_comes_first_and_the_last_of_all():
    app = Application()

    @app.get("/way")
    def way(request: Request) -> str:
        return request.scope["way"]

    app.before(_Marks, letter="b")
    app.before(_Marks, letter="a")
    with TestClient(app) as client:
        assert client.get("/way").json() == "ab"
        assert client.get("/b").text == "ab"
        assert client.get("/a").text == "a"
