"""Routes of the classification endpoint."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated, Any, BinaryIO, cast

import orjson
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import StreamingResponse
from prometheus_client import Counter
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
from services.readiness import Reference

CLASSIFY, VERDICTS, LABELS = "/v1/classify", "/v1/verdicts", "/v1/labels"
NEIGHBOURS = VERDICTS + "/{prediction_id}/neighbours"
IN_MEMORY_BYTES = 1 << 20  # a larger upload waits on disk
MAX_JSON_BYTES = 8_000_000
HEARTBEAT_S = 15.0

_SCHEMA = "#/components/schemas/{model}"
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
            "application/json": {"schema": {"$ref": _SCHEMA.format(model=FlowsRequest.__name__)}},
        },
    }
}


def create_app(settings: ClassifySettings, *, others: Sequence[Reference] = ()) -> FastAPI:
    """The application; `app.state.classify` is its `ClassifyService`. `others`: what else the
    process serves."""
    service = ClassifyService(settings, others=others)

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
    document = app.openapi

    def described() -> dict[str, Any]:
        found = document()
        flows = FlowsRequest.model_json_schema(ref_template=_SCHEMA)
        found["components"]["schemas"] |= flows.pop("$defs") | {FlowsRequest.__name__: flows}
        return found

    app.openapi = described  # type: ignore[method-assign]
    return app


def _add_routes(app: FastAPI, service: ClassifyService, settings: ClassifySettings) -> None:
    refused = service.telemetry.uploads.labels("refused")
    received = _Places(settings.max_received, "received", refused)
    under_way = _Places(settings.max_uploads, "classified", refused)

    @app.post(
        CLASSIFY,
        tags=["classify"],
        openapi_extra=_BODY,
        responses=documented(400, 408, 413, 415, 422, 503),
    )
    async def classify(
        request: Request,
        provisional: Annotated[
            bool, Query(description="Also the verdicts before each flow's last one.")
        ] = False,
    ) -> CaptureResponse | FlowsResponse:
        """Classify an uploaded capture (pcap or pcapng, plain or gzipped), as the body itself or
        as a form's file `capture`; or flows, by their features."""
        under_way.refuse_if_taken()
        async with AsyncExitStack() as held:
            # Whoever is slow to send holds nothing that those need who have sent.
            async with received.one():
                sent = await _received(request, settings, held)
            async with under_way.one():
                if isinstance(sent, FlowsRequest):
                    return await asyncio.to_thread(service.classify_flows, sent)
                async with _asked_still(request) as gone:
                    return await asyncio.to_thread(
                        service.classify_capture, sent, provisional=provisional, gone=gone.is_set
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
        k: Annotated[int, Query(ge=1, le=200, description="Beside the flow itself.")] = 12,
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


class _Places:
    """So many at a time; whoever is one too many is refused at once."""

    def __init__(self, most: int, what: str, refused: Counter) -> None:
        """`what` is done with so many captures; `refused` counts."""
        self._most = most
        self._what = what
        self._refused = refused
        self._free = asyncio.Semaphore(most)

    def refuse_if_taken(self) -> None:
        """See the class.

        Raises:
            ProblemError: 503, all are taken.
        """
        if self._free.locked():
            self._refused.inc()
            raise ProblemError(
                status=503,
                title="Too busy",
                detail=f"{self._most} captures are being {self._what}; ask again in 1 s",
                headers={"Retry-After": "1"},
            )

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Take a place for the length of the block; see `refuse_if_taken`."""
        self.refuse_if_taken()
        async with self._free:
            yield


async def _received(
    request: Request, settings: ClassifySettings, held: AsyncExitStack
) -> BinaryIO | FlowsRequest:
    """What was sent: a capture, which stays readable while `held` is open, or flows.

    Raises:
        ProblemError: it is too large or not what it should be, or does not come.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        body = await _bounded(request, MAX_JSON_BYTES, stalled_s=settings.stalled_s).body()
        return await asyncio.to_thread(_flows, body)
    bounded = _bounded(request, settings.max_upload_bytes, stalled_s=settings.stalled_s)
    if kind == "multipart/form-data":
        form = await held.enter_async_context(bounded.form(max_files=1, max_fields=4))
        file = form.get("capture")
        if not isinstance(file, UploadFile):
            raise ProblemError(
                status=422, title="Invalid request", detail="the form has no file `capture`"
            )
        return file.file
    spooled = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115
    held.enter_context(spooled)
    async for chunk in bounded.stream():
        await asyncio.to_thread(spooled.write, chunk)
    spooled.seek(0)
    return cast(BinaryIO, spooled)


def _flows(body: bytes) -> FlowsRequest:
    """Not on the event loop: to tell of a million mistakes takes seconds."""
    try:
        return FlowsRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error.errors(), within=("body",)) from error


@asynccontextmanager
async def _asked_still(request: Request) -> AsyncIterator[threading.Event]:
    """An event that is set when the client, whose body was read, has gone."""
    gone = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def _bounded(request: Request, limit: int, *, stalled_s: float) -> Request:
    """The request, whose body may hold so many bytes, and has to go on coming.

    Raises:
        ProblemError: 413, at once where its length is told, else while it is read; 408 when nothing
            has come for `stalled_s`.
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
        try:
            message = await asyncio.wait_for(request.receive(), stalled_s)
        except TimeoutError as error:
            raise ProblemError(
                status=408,
                title="Nothing came",
                detail=f"the body is not whole, and nothing of it came for {stalled_s:g} s",
                headers={"Connection": "close"},
            ) from error
        taken += len(message.get("body", b""))
        if taken > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


async def _refresh_forever(service: ClassifyService, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(service.refresh)
