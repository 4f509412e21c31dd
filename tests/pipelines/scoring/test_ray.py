"""The same rows on a local cluster of two nodes; skipped where Ray is not installed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from pipelines.scoring.job import score
from pipelines.scoring.output import Output
from pipelines.scoring.ray_engine import RayEngine

from . import test_recommender, test_traffic
from .conftest import write_some_captures, write_tables

ray = pytest.importorskip("ray", reason="Ray is an extra, and not installed here")
# Ray's own.
pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from ray.cluster_utils import Cluster

    # Actors import this code from where the tests do.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    )
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, logging_level="ERROR")
    yield
    ray.shutdown()
    nodes.shutdown()


def test_users_get_the_same_rows_on_two_nodes(cluster, home, tmp_path):
    data = write_tables(tmp_path / "data")
    job = test_recommender.make_job(home, data, bucket_bytes=1_000)
    assert job.manifest.units > 2
    _, expected = test_recommender.run(job, tmp_path / "here")
    summary = score(job, Output(str(tmp_path / "there")), engine=RayEngine(actors=2))
    assert summary.scored == summary.rows == 60
    _, rows = test_recommender.run(job, tmp_path / "there")  # complete: only reads
    assert_frame_equal(rows, expected, abs_tol=1e-5)


def test_a_folder_is_the_same_for_nodes_that_run_elsewhere(cluster, home, tmp_path, monkeypatch):
    captures = write_some_captures(tmp_path / "captures")
    monkeypatch.chdir(tmp_path)
    job = test_traffic.make_job(home, captures)
    summary = score(job, Output("there"), engine=RayEngine(actors=2))
    assert len(list((tmp_path / "there").glob("part-*.parquet"))) == summary.parts


def test_flows_get_the_same_rows_on_two_nodes(cluster, home, tmp_path):
    captures = write_some_captures(tmp_path / "captures")
    job = test_traffic.make_job(home, captures)
    _, expected = test_traffic.run(job, tmp_path / "here")
    summary = score(job, Output(str(tmp_path / "there")), engine=RayEngine(actors=2))
    assert (summary.rows, summary.rejected) == (60, 1)
    _, rows = test_traffic.run(job, tmp_path / "there")
    assert_frame_equal(rows, expected, abs_tol=1e-5)
