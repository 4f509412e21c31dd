"""Where ids of users come in: behind it, only their pseudonyms are known."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from feature_store.pseudonyms import Pseudonyms
from services.recommend.schemas import FeedbackRequest, RecommendationRequest

R = TypeVar("R", RecommendationRequest, FeedbackRequest)
USERS, HISTORY = "/v1/users/", "/history"


def under_pseudonym(request: R, pseudonyms: Pseudonyms | None) -> R:
    """The request of the same user, by another name."""
    if pseudonyms is None or request.user_id is None:
        return request
    return request.model_copy(update={"user_id": pseudonyms(request.user_id)})


class PathsUnderPseudonym:
    """ASGI middleware: replaces the id in `/v1/users/ID/history`.

    It comes before all others: they write paths into logs and traces.
    """

    def __init__(self, app: ASGIApp, *, pseudonyms: Pseudonyms) -> None:
        self._app, self._pseudonyms = app, pseudonyms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] == "http" and scope["path"].startswith(USERS):
            # Also of a path that no route has: it is written down all the same.
            asked = scope["path"].removeprefix(USERS)
            history = HISTORY if asked.endswith(HISTORY) else ""
            if user_id := asked.removesuffix(HISTORY):
                path = f"{USERS}{self._pseudonyms(user_id)}{history}"
                scope = {**scope, "path": path, "raw_path": quote(path).encode()}
        await self._app(scope, receive, send)
