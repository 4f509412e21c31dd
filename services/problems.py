"""Errors as RFC 9457 problem documents (`application/problem+json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

MEDIA_TYPE = "application/problem+json"
# A hostile body can hold a fault a byte; an answer names the first ones.
MAX_ERRORS = 20


class ProblemError(Exception):
    """A failure that the caller is told about.

    Attributes:
        status: HTTP status.
        title: what kind of problem it is, the same words every time.
        detail: what happened in this case and what to do.
    """

    def __init__(
        self,
        *,
        status: int,
        title: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.headers = headers
        self.status = status
        self.title = title
        self.detail = detail
        self.members = members

    def response(self, path: str) -> JSONResponse:
        """The document, for a request of `path`."""
        body = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            **self.members,
        }
        return JSONResponse(
            body, status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers
        )


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _unexpected)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` for the problem documents that a route may answer."""
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
        },
    }
    return {
        status: {"description": "Problem document", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def invalid(found: Sequence[Any], *, within: tuple[str, ...] = ()) -> ProblemError:
    """422 that points at pydantic's `found` errors, each `within` a part of the request."""
    errors = [
        {"pointer": "/" + "/".join(map(str, (*within, *each["loc"]))), "detail": each["msg"]}
        for each in found[:MAX_ERRORS]
    ]
    detail = "; ".join(f"{each['pointer']}: {each['detail']}" for each in errors[:3])
    return ProblemError(status=422, title="Invalid request", detail=detail, errors=errors)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return error.response(request.url.path)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()).response(request.url.path)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = ProblemError(
        status=error.status_code, title=str(error.detail), detail=str(error.detail)
    ).response(request.url.path)
    response.headers.update(error.headers or {})
    return response


def disconnected() -> ProblemError:
    """400 for a client that has gone: nobody reads it, and nothing has failed."""
    return ProblemError(status=400, title="Client gone", detail="The client hung up.")


async def _disconnected(request: Request, _: Exception) -> JSONResponse:
    return disconnected().response(request.url.path)


def unexpected() -> ProblemError:
    """500 for a failure that nobody foresaw."""
    return ProblemError(
        status=500,
        title="Internal error",
        detail="The service failed to answer; the failure is in its log.",
    )


async def _unexpected(request: Request, _: Exception) -> JSONResponse:
    return unexpected().response(request.url.path)
