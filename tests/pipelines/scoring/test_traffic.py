from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from feature_store.editions.traffic import TrafficEdition
from feature_store.registry import Registry
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import open_capture
from feature_store.traffic.flows import FlowSettings
from feature_store.traffic.report import describe_flows
from pipelines.scoring.inputs import find_files
from pipelines.scoring.job import Summary, in_process, score
from pipelines.scoring.output import Output
from pipelines.scoring.traffic import CAPTURE_SUFFIXES, TrafficJob

from .conftest import CLASSES, read_rejects, write_some_captures


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    return write_some_captures(tmp_path / "captures")


def make_job(home: Path, *captures: Path | str, **changes) -> TrafficJob:
    job = TrafficJob(
        registry=str(home / "registry"),
        cache=None,
        reference="champion",
        version=Registry(home / "registry").resolve("traffic", "champion"),
        captures=find_files([str(each) for each in captures], suffixes=CAPTURE_SUFFIXES),
        code_version="test",
        block_rows=8,
    )
    return replace(job, **changes)


def run(job: TrafficJob, out: Path) -> tuple[Summary, pl.DataFrame]:
    summary = score(job, Output(str(out)), engine=in_process)
    return summary, pl.read_parquet(out / "*.parquet").sort("capture", "flow")


def test_every_flow_gets_the_verdict_that_it_gets_alone(home, captures, tmp_path):
    summary, rows = run(make_job(home, captures / "chat.pcap"), tmp_path / "out")
    edition = TrafficEdition.load(Registry(home / "registry").open("traffic", "champion")[0])
    meter = FlowMeter(FlowSettings(kept_packets=edition.packets))
    with open_capture(captures / "chat.pcap") as packets:
        batches = list(read_flows(packets, meter))
    assert (summary.rows, summary.counts["packets"]) == (30, sum(meter.outcomes.values()))
    seen = 0
    for batch in batches:
        for place, about in enumerate(describe_flows(batch)):
            flow = batch[place : place + 1]
            row = rows.row(int(flow.flow["number"][0]), named=True)
            assert {key: row[key] for key in about if key not in ("start", "end")} == {
                key: value for key, value in about.items() if key not in ("start", "end")
            }
            probability = edition.probability(flow)
            found = [row["probabilities"][name] for name in CLASSES]
            np.testing.assert_allclose(found, probability[0], atol=1e-5)
            assert row["confidence"] == pytest.approx(max(found))
            assert row["label"] == edition.names(np.array([found], np.float32))[0]
            seen += 1
    assert seen == 30
    first = rows["start"].dt.epoch("ns").to_list()
    assert first[0] == min(first) == 1_000_000_000 * 10**9
    assert rows["tier"].unique().to_list() == ["T1"]
    assert rows["model_version"].unique().to_list() == [summary.version]


def test_a_folder_is_read_and_what_is_no_capture_is_rejected(home, captures, tmp_path):
    whole = (captures / "video.pcap").read_bytes()
    (captures / "cut.pcap").write_bytes(whole[:-5])
    summary, rows = run(make_job(home, captures), tmp_path / "out")
    assert {Path(name).name for name in rows["capture"]} == {"chat.pcap", "video.pcap", "cut.pcap"}
    rejects = read_rejects(tmp_path / "out")
    assert summary.rejected == len(rejects) == 2
    reasons = {Path(each["file"]).name: each["reason"] for each in rejects}
    assert "neither pcap nor pcapng" in reasons["zz.pcap"]
    assert "cut_short" in reasons["cut.pcap"]


def test_blocks_change_no_row(home, captures, tmp_path):
    _, rows = run(make_job(home, captures), tmp_path / "out")
    summary, again = run(make_job(home, captures, block_rows=1_000), tmp_path / "again")
    assert summary.parts == 2
    assert_frame_equal(again, rows, abs_tol=1e-5)


def test_nothing_but_rejects_is_an_error_that_says_why(home, captures, tmp_path):
    with pytest.raises(ValueError, match=r"nothing of the input could be read: .*zz\.pcap"):
        run(make_job(home, captures / "zz.pcap"), tmp_path / "out")
