"""Routes of the classification endpoint."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, BinaryIO, cast

import orjson
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.types import Message

from services import problems
from services.classify.schemas import (
    CaptureResponse,
    FlowLabel,
    FlowsRequest,
    FlowsResponse,
    LabelsRequest,
    LabelsResponse,
    NeighboursResponse,
    StreamVerdict,
)
from services.classify.service import ClassifyService
from services.classify.settings import ClassifySettings
from services.classify.sinks import Subscription
from services.problems import ProblemError, documented, invalid

CLASSIFY, VERDICTS, LABELS = "/v1/classify", "/v1/verdicts", "/v1/labels"
NEIGHBOURS = VERDICTS + "/{prediction_id}/neighbours"
IN_MEMORY_BYTES = 1 << 20  # a larger upload waits on disk
MAX_JSON_BYTES = 8_000_000
HEARTBEAT_S = 15.0

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["capture"],
                    "properties": {"capture": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {"schema": FlowsRequest.model_json_schema()},
        },
    }
}


def create_app(settings: ClassifySettings) -> FastAPI:
    """The application; `app.state.classify` is its `ClassifyService`."""
    service = ClassifyService(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.refresh)
        refreshing = asyncio.create_task(_refresh_forever(service, settings.refresh_s))
        yield
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing
        await asyncio.to_thread(service.close)

    app = FastAPI(title="Errata: traffic", version=settings.code_version, lifespan=lifespan)
    app.state.classify = service
    problems.install(app)
    _add_routes(app, service, settings)
    return app


def _add_routes(app: FastAPI, service: ClassifyService, settings: ClassifySettings) -> None:
    under_way = asyncio.Semaphore(settings.max_uploads)

    @app.post(
        CLASSIFY,
        tags=["classify"],
        openapi_extra=_BODY,
        responses=documented(400, 413, 415, 422, 503),
    )
    async def classify(
        request: Request,
        provisional: Annotated[
            bool, Query(description="Also the verdicts before each flow's last one.")
        ] = False,
    ) -> CaptureResponse | FlowsResponse:
        """Classify an uploaded capture (pcap or pcapng, plain or gzipped), as the body itself or
        as a form's file `capture`; or flows, by their features."""
        if under_way.locked():
            service.telemetry.uploads.labels("refused").inc()
            raise ProblemError(
                status=503,
                title="Too busy",
                detail=f"{settings.max_uploads} captures are being classified; ask again in 1 s",
                headers={"Retry-After": "1"},
            )
        async with under_way:
            kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
            if kind == "application/json":
                body = await _bounded(request, MAX_JSON_BYTES).body()
                try:
                    flows = FlowsRequest.model_validate_json(body)
                except ValidationError as error:
                    raise invalid(error.errors(), within=("body",)) from error
                return await asyncio.to_thread(service.classify_flows, flows)
            bounded = _bounded(request, settings.max_upload_bytes)
            if kind == "multipart/form-data":
                async with bounded.form(max_files=1, max_fields=4) as form:
                    file = form.get("capture")
                    if not isinstance(file, UploadFile):
                        raise ProblemError(
                            status=422,
                            title="Invalid request",
                            detail="the form has no file `capture`",
                        )
                    return await asyncio.to_thread(
                        service.classify_capture, file.file, provisional=provisional
                    )
            with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as spooled:
                async for chunk in bounded.stream():
                    await asyncio.to_thread(spooled.write, chunk)
                spooled.seek(0)
                return await asyncio.to_thread(
                    service.classify_capture, cast(BinaryIO, spooled), provisional=provisional
                )

    @app.post(LABELS, tags=["classify"], responses=documented(422, 503))
    async def labels(request: LabelsRequest | FlowLabel) -> LabelsResponse:
        """Say what one flow or several really were: verdicts on flows like them are corrected
        within a second, and classes that the model never knew are named."""
        several = request if isinstance(request, LabelsRequest) else LabelsRequest(labels=[request])
        return await asyncio.to_thread(service.learn, several)

    @app.get(
        VERDICTS,
        tags=["classify"],
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "Server-sent events: `verdict`, `dropped`, and comments that keep "
                "the connection open.",
                "content": {"text/event-stream": {"schema": StreamVerdict.model_json_schema()}},
            }
        },
    )
    async def verdicts(
        final: Annotated[bool, Query(description="Final verdicts alone.")] = False,
    ) -> StreamingResponse:
        """The verdicts on the live source and on uploads, as they are made, from now on: those of
        every replica that shares this one's Redis."""
        return StreamingResponse(
            _events(service, final_only=final),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @app.get(NEIGHBOURS, tags=["classify"], responses=documented(404, 422))
    async def neighbours(
        prediction_id: Annotated[str, Path(max_length=64)],
        k: Annotated[int, Query(ge=1, le=200)] = 12,
    ) -> NeighboursResponse:
        """Recent flows like one flow, each with its verdict as it was and as it would be now: how
        far labels have reached."""
        return await asyncio.to_thread(service.neighbours, prediction_id, k=k)


async def _events(service: ClassifyService, *, final_only: bool) -> AsyncIterator[bytes]:
    async with _listening(service, final_only=final_only) as subscription:
        told = number = 0
        watching = service.watching
        yield f": {watching or 'no live source here; verdicts of uploads follow'}\n\n".encode()
        while (found := await subscription.next(HEARTBEAT_S)) is not None:
            if subscription.dropped > told:
                told = subscription.dropped
                yield b'event: dropped\ndata: {"total": %d}\n\n' % told
            lines = []
            if service.watching != watching:
                watching = service.watching
                lines.append(f": {watching}\n\n".encode())
            for verdict in found:
                number += 1
                data = orjson.dumps(verdict.to_json())
                lines.append(b"event: verdict\nid: %d\ndata: %s\n\n" % (number, data))
            yield b"".join(lines) or b": still here\n\n"


@asynccontextmanager
async def _listening(service: ClassifyService, *, final_only: bool) -> AsyncIterator[Subscription]:
    """A subscription that misses nothing from now on, whichever replica says it."""
    relay = service.relay
    with (
        service.hub.subscribe(final_only=final_only) as subscription,
        service.telemetry.listeners.track_inprogress(),
    ):
        if relay is None:
            yield subscription
            return
        relay.join()
        try:
            await asyncio.to_thread(relay.wait)
            yield subscription
        finally:
            relay.leave()


def _bounded(request: Request, limit: int) -> Request:
    """The request, whose body may hold so many bytes.

    Raises:
        ProblemError: 413, at once where its length is told, else while it is read.
    """
    too_large = ProblemError(
        status=413,
        title="Body too large",
        detail=f"this may hold {limit:,} bytes; `errata classify FILE` has no limit",
        headers={"Connection": "close"},
    )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


async def _refresh_forever(service: ClassifyService, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(service.refresh)
