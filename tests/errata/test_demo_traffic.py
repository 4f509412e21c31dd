"""The traffic that the demo makes: real conversations, captured or written down by proxies."""

from collections import Counter
from pathlib import Path

import pytest

from errata.demo.recording import Recording
from errata.demo.traffic import _traffic
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import InterfaceUnavailableError, open_capture, open_interface
from feature_store.traffic.report import protocol_name


@pytest.mark.parametrize("live", [True, False])
def test_every_application_talks_and_is_recorded_under_its_name(tmp_path: Path, live: bool) -> None:
    if live:
        try:
            open_interface("lo").close()
        except InterfaceUnavailableError as reason:
            pytest.skip(str(reason))
    with _traffic(tmp_path, seconds=0.5, seed=0, live=live) as (packets, classes):
        recording = Recording(tmp_path / "classes", "0", classes)
        for batch in packets:
            if len(batch):
                recording.add(batch)
        recording.close()
    protocols = {"web": 6, "download": 6, "chat": 6, "lookup": 17, "video": 17, "voice": 17}
    assert set(classes.values()) >= protocols.keys()
    for name in classes.values():
        with open_capture(tmp_path / "classes" / name / "0.pcap") as capture:
            flows = [flow for found in read_flows(capture, FlowMeter()) for flow in found.flow]
        assert flows, name
        assert {int(flow["protocol"]) for flow in flows} == {protocols.get(name, 6)}
        servers = {(protocol_name(flow), int(flow["dst_port"])) for flow in flows}
        assert {classes[each] for each in servers} == {name}
        both = Counter(bool(flow["packets"].all()) for flow in flows)
        assert both[True] > both[False]
