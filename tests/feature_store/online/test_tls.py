"""`rediss://`, as the chart writes it: a real handshake before a real server with a password."""

import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from feature_store.online import EmbeddedRedis, connect

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tls.key and tls.crt, of `localhost` alone, which is its own authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    command += ["-subj", "/CN=redis", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def port(certificate: Path) -> Iterator[int]:
    """Where a server with a password answers over TLS: the embedded one is built without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
    with (
        tempfile.TemporaryDirectory(prefix="errata-") as directory,
        EmbeddedRedis(Path(directory)) as server,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        with connect(server.url) as client:
            client.config_set("requirepass", PASSWORD)
        forwarder = threading.Thread(
            target=_forward, args=(listener, context, server.url), daemon=True
        )
        forwarder.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        forwarder.join()
        with connect(server.url.replace("unix://", f"unix://:{PASSWORD}@")) as client:
            client.config_set("requirepass", "")


def _forward(listener: socket.socket, context: ssl.SSLContext, url: str) -> None:
    """Hand what comes in over TLS on to the server's socket, one connection after another."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
            server.connect(url.removeprefix("unix://"))
            with context.wrap_socket(plain, server_side=True) as client:
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                server.shutdown(socket.SHUT_RDWR)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while received := source.recv(65_536):
            sink.sendall(received)


def url(port: int, certificate: Path, *, host: str = "localhost", password: str = PASSWORD) -> str:
    secret = password.replace(" ", "%20")
    return f"rediss://:{secret}@{host}:{port}/0?ssl_ca_certs={certificate / 'tls.crt'}"


def test_a_server_that_proves_itself_is_talked_to(port: int, certificate: Path) -> None:
    with connect(url(port, certificate), timeout_s=5) as client:
        client.set("a click", "counted")
        assert client.get("a click") == b"counted"


def test_the_password_is_asked_for(port: int, certificate: Path) -> None:
    with (
        connect(url(port, certificate, password="wrong"), timeout_s=5) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"host": "127.0.0.1"}, "IP address mismatch"), (None, "self-signed certificate")],
    ids=["another host's", "nobody's"],
)
def test_a_certificate_that_proves_nothing_is_refused(
    port: int, certificate: Path, changes: dict[str, str] | None, said: str
) -> None:
    """Before the password is sent."""
    address = url(port, certificate, **(changes or {}))
    if changes is None:
        address = address.partition("?")[0]
    with (
        connect(address, timeout_s=5) as client,
        pytest.raises(redis.ConnectionError, match=said),
    ):
        client.ping()
