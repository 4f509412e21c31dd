import socket
import threading
import time
from collections.abc import Iterator

import pytest

from feature_store.traffic.capture import (
    InterfaceCapture,
    InterfaceUnavailableError,
    open_interface,
)
from feature_store.traffic.meter import FlowMeter, read_flows


@pytest.fixture
def loopback() -> Iterator[InterfaceCapture]:
    deadline = time.monotonic() + 1.5
    try:
        capture = open_interface("lo", stop=lambda: time.monotonic() > deadline, poll_s=0.05)
    except InterfaceUnavailableError as reason:
        pytest.skip(str(reason))
    with capture:
        yield capture


def test_live_packets_of_the_loopback_become_one_flow(loopback: InterfaceCapture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def talk() -> None:
            with socket.create_connection(("127.0.0.1", port)) as client:
                peer, _ = server.accept()
                with peer:
                    client.sendall(b"question")
                    peer.recv(100)
                    peer.sendall(b"answer")
                    client.recv(100)

        talker = threading.Thread(target=talk)
        talker.start()
        meter = FlowMeter()
        flows = [
            f for batch in read_flows(loopback, meter, clock_ns=time.time_ns) for f in batch.flow
        ]
        talker.join()
    ours = [flow for flow in flows if port in (flow["src_port"], flow["dst_port"])]
    assert len(ours) == 1
    assert ours[0]["dst_port"] == port
    assert min(ours[0]["packets"]) >= 3
    assert abs(int(ours[0]["first_ns"]) - time.time_ns()) < 60e9


def test_an_unknown_interface_is_named() -> None:
    with pytest.raises(InterfaceUnavailableError, match=r"nosuch0|CAP_NET_RAW|packet sockets"):
        open_interface("nosuch0")
