from pathlib import Path

import numpy as np
import pytest

from pipelines.traffic.dataset import UNLABELLED, read_labelled_flows
from pipelines.traffic.labels import FolderLabels, find_captures, find_labels

from .conftest import APPLICATIONS, write_recording


def test_a_folder_names_its_class(captures: Path) -> None:
    labelled = read_labelled_flows(find_captures(captures), find_labels(captures), root=captures)
    assert labelled.classes == ("chat", "lookup", "video")
    assert (np.bincount(labelled.label) == 80).all()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Chat_lt1.pcap", "Chat"),
        ("VPN_VoIP_lt101.pcap", "VPN_VoIP"),
        ("mail-3.pcapng.gz", "mail"),
        ("mail.pcap", "mail"),
    ],
)
def test_a_capture_beside_others_is_named_after_its_class(name: str, label: str) -> None:
    assert FolderLabels(Path("data")).label(Path("data") / name) == label


def test_a_mac_address_file_labels_the_device_and_nothing_else(tmp_path: Path) -> None:
    for name in ("plug", "camera"):
        write_recording(
            tmp_path / name / "setup.pcap", APPLICATIONS["chat"], flows=3, begin_s=1e9, seed=1
        )
    (tmp_path / "plug" / "_iotdevice-mac.txt").write_text("02:00:00:00:00:01\n")
    (tmp_path / "camera" / "_iotdevice-mac.txt").write_text("aa:bb:cc:dd:ee:ff\n")
    found = read_labelled_flows(find_captures(tmp_path), find_labels(tmp_path), root=tmp_path)
    assert found.classes == ("plug",)
    assert (found.label == 0).sum() == 3
    assert (found.label == UNLABELLED).sum() == 3


def test_a_table_of_mac_addresses_labels_every_capture(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.pcap", APPLICATIONS["chat"], flows=2, begin_s=1e9, seed=1)
    (tmp_path / "labels.csv").write_text("mac,label\n02-00-00-00-00-02,plug\n")
    found = read_labelled_flows(find_captures(tmp_path), find_labels(tmp_path), root=tmp_path)
    assert found.classes == ("plug",)
    assert (found.label == 0).all()


def test_a_table_of_flows_labels_either_way_round_and_within_its_time(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.pcap", APPLICATIONS["lookup"], flows=3, begin_s=1e9, seed=1)
    (tmp_path / "labels.csv").write_text(
        "src,src_port,dst,dst_port,protocol,begin,end,label\n"
        "192.0.2.1,10000,198.51.100.1,443,udp,,,forward\n"
        "198.51.100.1,443,192.0.2.1,10001,17,,,backward\n"
        "192.0.2.1,10002,198.51.100.1,443,udp,1,2,long ago\n"
        "192.0.2.1,10002,198.51.100.1,443,udp,2001-09-08T01:46:40Z,2001-09-09T01:46:39,yesterday\n"
    )
    found = read_labelled_flows(find_captures(tmp_path), find_labels(tmp_path), root=tmp_path)
    assert found.classes == ("backward", "forward")
    by_port = dict(zip(found.flows.flow["src_port"].tolist(), found.label.tolist(), strict=True))
    assert by_port == {10000: 1, 10001: 0, 10002: UNLABELLED}


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("1000000000", "1000000100.5"),
        ("2001-09-09T01:46:40Z", "2001-09-09T03:48:20.5+02:00"),
        ("2001-09-09 01:46:40", ""),
    ],
)
def test_a_table_tells_times_in_seconds_or_as_iso(tmp_path: Path, begin: str, end: str) -> None:
    write_recording(tmp_path / "a.pcap", APPLICATIONS["lookup"], flows=1, begin_s=1e9, seed=1)
    (tmp_path / "labels.csv").write_text(
        "src,src_port,dst,dst_port,protocol,begin,end,label\n"
        f"192.0.2.1,10000,198.51.100.1,443,udp,{begin},{end},now\n"
    )
    found = read_labelled_flows(find_captures(tmp_path), find_labels(tmp_path), root=tmp_path)
    assert found.classes == ("now",)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("mac,label\nnot-a-mac,plug\n", "labels.csv:2"),
        ("src,label\n192.0.2.1,plug\n", "lacks src_port"),
        ("src,src_port,dst,dst_port,protocol,label\n1.2.3,1,192.0.2.1,2,tcp,x\n", "labels.csv:2"),
        ("src,src_port,dst,dst_port,protocol,label\n::1,1,::2,2,quic,x\n", "csv:2: 'quic' is no"),
        (
            "src,src_port,dst,dst_port,protocol,begin,label\n::1,1,::2,2,udp,monday,x\n",
            "csv:2: 'monday' is no time",
        ),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path: Path, table: str, complaint: str) -> None:
    write_recording(tmp_path / "a.pcap", APPLICATIONS["chat"], flows=1, begin_s=1e9, seed=1)
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=complaint):
        find_labels(tmp_path)


def test_what_is_no_capture_is_rejected_by_name_and_the_rest_is_read(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.pcap", APPLICATIONS["chat"], flows=2, begin_s=1e9, seed=1)
    (tmp_path / "b.pcap").write_text("no capture at all")
    found = read_labelled_flows(find_captures(tmp_path), find_labels(tmp_path), root=tmp_path)
    assert len(found) == 2
    assert list(found.rejects) == ["b.pcap"]


def test_a_directory_without_captures_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no capture"):
        find_captures(tmp_path)
