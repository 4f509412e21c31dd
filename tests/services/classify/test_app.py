"""The endpoint over real HTTP."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn

from feature_store.editions.traffic import TrafficEdition
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from feature_store.traffic.features import Tier
from feature_store.traffic.flows import HEADER_FIELDS
from services.classify.app import create_app
from services.classify.settings import ClassifySettings, Watch
from services.classify.stream import ServedEdition, StreamClassifier
from tests.services.classify.conftest import packets_of, publish, verdicts_of, write_mixed


@contextmanager
def serving(settings: ClassifySettings) -> Iterator[httpx.Client]:
    """The real application on a free port."""
    app = create_app(settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = listener.getsockname()[1]
    transport = httpx.HTTPTransport(retries=20)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, transport=transport
        ) as client:
            yield client
    finally:
        app.state.classify.hub.close()
        server.should_exit = True
        thread.join()


Settings = Callable[..., ClassifySettings]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    def build(**changes) -> ClassifySettings:
        values = {"registry": str(tmp_path / "registry"), "refresh_s": 0.05}
        return ClassifySettings.model_validate(values | changes)

    return build


@pytest.fixture
def version(tmp_path: Path, served: ServedEdition) -> str:
    return publish(Registry(tmp_path / "registry"), served.edition, tmp_path / "staging")


@pytest.fixture
def client(version: str, settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings()) as client:
        yield client


def problem(response: httpx.Response, status: int) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    return f"{body['title']}: {body['detail']}"


def test_an_uploaded_capture_is_classified(
    client: httpx.Client, version: str, served: ServedEdition, mixed: Path
) -> None:
    expected = {
        (v.flow.source_port, v.label, v.packet, str(v.reason))
        for v in verdicts_of([packets_of(mixed)], StreamClassifier(served))
        if v.final
    }
    body = mixed.read_bytes()
    for upload in (
        {"content": body},
        {"content": iter([body[:5_000], body[5_000:]])},  # of a length that is not told
        {"files": {"capture": ("mixed.pcap", body)}},
    ):
        answer = client.post("/v1/classify", **upload).json()
        assert answer["model_version"] == version
        assert answer["flows"] == len(answer["verdicts"]) == 36
        assert answer["packets"] == {"flow": len(packets_of(mixed))}
        assert answer["damage"] == {}
        assert {
            (v["source_port"], v["label"], v["packet"], v["reason"]) for v in answer["verdicts"]
        } == expected


def test_provisional_verdicts_come_when_they_are_asked_for(
    client: httpx.Client, mixed: Path
) -> None:
    answer = client.post("/v1/classify?provisional=true", content=mixed.read_bytes()).json()
    assert {v["final"] for v in answer["verdicts"]} == {True, False}


def test_an_answer_has_an_end_and_says_what_it_left_out(
    version: str, settings: Settings, mixed: Path
) -> None:
    with serving(settings(max_verdicts=10)) as client:
        answer = client.post("/v1/classify", content=mixed.read_bytes()).json()
    assert (len(answer["verdicts"]), answer["left_out"], answer["flows"]) == (10, 26, 36)


def test_flow_features_are_classified_as_the_flow_is(
    client: httpx.Client, served: ServedEdition, mixed: Path
) -> None:
    classifier = StreamClassifier(served)
    flows, expected = [], {}
    list(classifier.add(packets_of(mixed)))
    for verdict in verdicts_of([packets_of(mixed)], StreamClassifier(served)):
        if verdict.final:
            expected[str(verdict.flow.source_port)] = verdict
    for batch in classifier.meter.finish():
        for row, flow in enumerate(batch.flow):
            packets = [
                {
                    "size": int(batch.size[row, place]),
                    "direction": int(batch.direction[row, place]),
                    "gap_s": int(batch.gap_ns[row, place]) / 1e9,
                    "fields": dict(
                        zip(HEADER_FIELDS, batch.fields[row, place].tolist(), strict=True)
                    ),
                }
                for place in range(int(flow["kept"]))
            ]
            flows.append({"id": str(flow["src_port"]), "packets": packets})
    answer = client.post("/v1/classify", json={"flows": flows}).json()
    assert len(answer["verdicts"]) == 36
    for verdict in answer["verdicts"]:
        wanted = expected[verdict["id"]]
        assert (verdict["label"], verdict["packet"]) == (wanted.label, wanted.packet)
        assert verdict["confidence"] == pytest.approx(wanted.confidence, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"flows": []}, "/body/flows"),
        ({"flows": [{"packets": [{"size": 0, "direction": 1}]}]}, "/body/flows/0/packets/0/size"),
        ({"flows": [{"packets": [{"size": 60, "direction": 2}]}]}, "direction"),
        ({"flows": [{"packets": [{"size": 60, "direction": 1}]}]}, "header fields"),
        ({"packets": []}, "/body/flows"),
    ],
)
def test_features_that_do_not_suffice_are_told(client: httpx.Client, body, said: str) -> None:
    assert said in problem(client.post("/v1/classify", json=body), 422)


def test_what_is_no_capture_is_told(client: httpx.Client, mixed: Path) -> None:
    assert "no capture" in problem(client.post("/v1/classify", content=b"hello there"), 422)
    assert "empty" in problem(client.post("/v1/classify", content=b""), 422)
    form = {"other": ("x", b"1")}
    assert "`capture`" in problem(client.post("/v1/classify", files=form), 422)
    damaged = client.post("/v1/classify", content=mixed.read_bytes()[:-7]).json()
    assert damaged["damage"] == {"cut_short": 1}
    assert damaged["flows"] == 36


def test_an_upload_beyond_the_limit_is_refused(
    version: str, settings: Settings, mixed: Path
) -> None:
    body = mixed.read_bytes()
    with serving(settings(max_upload_bytes=len(body) - 1)) as client:
        for upload in (
            {"content": body},
            {"content": iter([body[:5_000], body[5_000:]])},
            {"files": {"capture": ("mixed.pcap", body)}},
        ):
            assert "bytes" in problem(client.post("/v1/classify", **upload), 413)
        assert client.post("/v1/classify", json={"flows": []}).status_code == 422


def test_a_gzipped_upload_that_unpacks_to_more_than_is_read_is_given_up(
    version: str, settings: Settings, mixed: Path
) -> None:
    body = mixed.read_bytes()
    packed = gzip.compress(body)
    with serving(settings(max_unpacked_bytes=len(body))) as client:
        assert client.post("/v1/classify", content=packed).json()["flows"] == 36
    bomb = gzip.compress(body + bytes(5_000_000))
    with serving(settings(max_unpacked_bytes=len(body))) as client:
        assert f"{len(body)} bytes" in problem(client.post("/v1/classify", content=bomb), 413)
        assert client.post("/v1/classify", content=packed).json()["flows"] == 36


@contextmanager
def uploading(client: httpx.Client, begun: bytes, *, length: int) -> Iterator[socket.socket]:
    """An upload of which the service has begun to read, and has `begun` alone."""
    client.get("/openapi.json")  # it listens
    with socket.create_connection((client.base_url.host, client.base_url.port)) as stalled:
        stalled.sendall(
            b"POST /v1/classify HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % length
        )
        assert stalled.recv(1000).startswith(b"HTTP/1.1 100")
        stalled.sendall(begun)
        yield stalled


def test_a_client_that_sends_nothing_keeps_nobody_waiting(
    version: str, settings: Settings, mixed: Path
) -> None:
    body = mixed.read_bytes()
    with (
        serving(settings(max_uploads=1, stalled_s=2)) as client,
        uploading(client, body[:100], length=len(body)) as stalled,
    ):
        assert client.post("/v1/classify", content=body).status_code == 200
        assert stalled.recv(1000).startswith(b"HTTP/1.1 408")


def test_uploads_that_are_received_at_the_same_time_have_a_bound(
    version: str, settings: Settings, mixed: Path
) -> None:
    body = mixed.read_bytes()
    with serving(settings(max_received=1)) as client:
        with uploading(client, body[:100], length=len(body)) as slow:
            assert "busy" in problem(client.post("/v1/classify", content=body), 503)
            slow.sendall(body[100:])
            assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        assert client.post("/v1/classify", content=body).status_code == 200


def test_a_client_that_hangs_up_is_no_failure(
    client: httpx.Client, mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = mixed.read_bytes()
    with uploading(client, body[:100], length=len(body)):
        pass
    assert client.post("/v1/classify", content=body).status_code == 200
    assert not caplog.records


def test_an_upload_whose_client_has_gone_is_not_read_to_its_end(
    version: str, settings: Settings, tmp_path: Path, mixed: Path
) -> None:
    many = write_mixed(tmp_path / "many.pcap", flows=900, seed=1, spread_s=1e6).read_bytes()
    with (
        serving(settings(max_uploads=1)) as client,
        client.stream("GET", "/v1/verdicts?final=true") as final,
    ):
        lines = final.iter_lines()
        assert "uploads" in next(lines)  # now it listens
        with uploading(client, many, length=len(many)):
            events(lines, 1)
        deadline = time.monotonic() + 60
        while (answer := client.post("/v1/classify", content=mixed.read_bytes())).is_error:
            assert time.monotonic() < deadline
        ids = {each["prediction_id"] for each in answer.json()["verdicts"]}
        before = 1
        while events(lines, 1)[0]["prediction_id"] not in ids:
            before += 1
    assert before < 2_700


def test_without_a_model_it_says_how_to_make_one_and_serves_it_once_it_is_there(
    settings: Settings, tmp_path: Path, served: ServedEdition, mixed: Path
) -> None:
    with serving(settings()) as client:
        response = client.post("/v1/classify", content=mixed.read_bytes())
        assert "errata train traffic" in problem(response, 503)
        publish(Registry(tmp_path / "registry"), served.edition, tmp_path / "staging")
        for _ in range(200):
            response = client.post("/v1/classify", content=mixed.read_bytes())
            if response.status_code == 200:
                break
        assert response.json()["flows"] == 36


def events(lines: Iterator[str], count: int) -> list[dict]:
    """The next verdicts of a stream of events."""
    found = []
    for line in lines:
        if line.startswith("data: "):
            found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == count:
                break
    return found


def test_verdicts_of_an_upload_are_heard_by_everyone_who_listens(
    client: httpx.Client, mixed: Path
) -> None:
    with (
        client.stream("GET", "/v1/verdicts") as every,
        client.stream("GET", "/v1/verdicts?final=true") as final,
    ):
        assert every.headers["content-type"].startswith("text/event-stream")
        heard = [every.iter_lines(), final.iter_lines()]
        assert all("uploads" in next(lines) for lines in heard)  # now they listen
        answer = client.post("/v1/classify?provisional=true", content=mixed.read_bytes()).json()
        assert events(heard[0], len(answer["verdicts"])) == answer["verdicts"]
        assert events(heard[1], 36) == [v for v in answer["verdicts"] if v["final"]]


def test_a_replayed_capture_is_watched_and_told(
    version: str, settings: Settings, mixed: Path, redis_server, redis_client
) -> None:
    # Some twenty seconds long: it must not have ended when the listener comes.
    watch = Watch(capture=mixed, replay=0.05, redis_stream="seen")
    with (
        serving(settings(watch=watch, redis_url=redis_server.url)) as client,
        client.stream("GET", "/v1/verdicts") as stream,
    ):
        found = events(stream.iter_lines(), 20)
    assert {v["model_version"] for v in found} == {version}
    assert redis_client.xlen("seen") > 0


def test_the_document_describes_what_is_taken_and_given(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/v1/classify"]["post"]["requestBody"]["content"].keys() == {
        "application/octet-stream",
        "multipart/form-data",
        "application/json",
    }
    assert "text/event-stream" in paths["/v1/verdicts"]["get"]["responses"]["200"]["content"]


def test_a_model_that_reads_bytes_wants_a_capture(
    tmp_path: Path, settings: Settings, trained: TrafficEdition
) -> None:
    t2 = replace(trained, tier=Tier.T2, tree=None)
    publish(Registry(tmp_path / "registry"), t2, tmp_path / "staging")
    with serving(settings()) as client:
        body = {"flows": [{"packets": [{"size": 60, "direction": 1}]}]}
        assert "upload a capture" in problem(client.post("/v1/classify", json=body), 422)


def test_labels_of_an_upload_name_a_class_that_the_model_never_knew(
    version: str, settings: Settings, redis_server: EmbeddedRedis, tmp_path: Path, mixed: Path
) -> None:
    remembering = settings(redis_url=redis_server.url, labels=tmp_path / "labels", tenant=version)
    with serving(remembering) as client:

        def uploaded() -> list[dict[str, object]]:
            answer = client.post("/v1/classify", content=mixed.read_bytes()).json()
            return [each for each in answer["verdicts"] if each["protocol"] == "udp"]

        for round_ in range(2):
            labels = [
                {"prediction_id": each["prediction_id"], "label": "lookup of v2", "source": "me"}
                for each in uploaded()
            ]
            told = client.post("/v1/labels", json={"labels": labels}).json()
            assert told["learned"] == len(labels), round_
        deadline = time.monotonic() + 20
        while {each["guess"] for each in uploaded()} != {"lookup of v2"}:
            assert time.monotonic() < deadline
        again = client.post("/v1/labels", json=labels[0]).json()
        assert again["outcomes"] == ["duplicate"]
        late = client.post("/v1/labels", json={"prediction_id": "gone", "label": "chat"}).json()
        assert late["outcomes"] == ["expired"]
    (day,) = (tmp_path / "labels").iterdir()
    assert len(day.read_text().splitlines()) == 2 * len(labels) + 2


@pytest.mark.parametrize("label", ["", "   ", "unknown", "a\nb", "x" * 129])
def test_what_can_be_no_class_is_refused(client: httpx.Client, label: str) -> None:
    answer = client.post("/v1/labels", json={"prediction_id": "x", "label": label})
    assert "label" in problem(answer, 422)


def test_labels_are_refused_while_the_disk_of_their_log_takes_nothing(
    version: str, settings: Settings, redis_server: EmbeddedRedis, tmp_path: Path, mixed: Path
) -> None:
    (tmp_path / "labels").write_text("a file where the folder was")
    remembering = settings(redis_url=redis_server.url, labels=tmp_path / "labels", tenant=version)
    with serving(remembering) as client:
        verdict = client.post("/v1/classify", content=mixed.read_bytes()).json()["verdicts"][0]
        label = {"prediction_id": verdict["prediction_id"], "label": "telepathy"}
        refused = client.post("/v1/labels", json=label)
        assert "disk" in problem(refused, 503)
        (tmp_path / "labels").unlink()
        assert client.post("/v1/labels", json=label).json()["outcomes"] == ["learned"]


def test_labels_without_redis_are_refused_and_say_why(client: httpx.Client) -> None:
    answer = client.post("/v1/labels", json={"prediction_id": "x", "label": "chat"})
    assert "Redis" in problem(answer, 503)
