import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from feature_store.editions import RecommenderEdition
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.online import OnlineStore
from feature_store.pseudonyms import Pseudonyms
from feature_store.registry import Registry
from pipelines.progress import Silent
from pipelines.recommender.materialise import materialise
from pipelines.scoring import user_scores as module
from pipelines.scoring.inputs import TABLE_SUFFIXES, find_files
from pipelines.scoring.job import Summary, in_process, score
from pipelines.scoring.output import Output
from pipelines.scoring.recommender import OnlineSource, RecommenderJob, TableSource

from .conftest import read_rejects, write_tables

K = 7


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "data")


@pytest.fixture
def edition(home: Path) -> RecommenderEdition:
    return RecommenderEdition.load(Registry(home / "registry").open("recommender", "champion")[0])


def make_job(home: Path, data: Path, **changes) -> RecommenderJob:
    registry = Registry(home / "registry")
    job = RecommenderJob(
        registry=str(home / "registry"),
        cache=None,
        reference="champion",
        version=registry.resolve("recommender", "champion"),
        kind="users",
        inputs=find_files([str(data / "asked.parquet")], suffixes=TABLE_SUFFIXES),
        histories=TableSource(
            *find_files([str(data / "interactions.parquet")], suffixes=TABLE_SUFFIXES)
        ),
        code_version="test",
        k=K,
        block_rows=16,
    )
    return replace(job, **changes)


def run(job: RecommenderJob, out: Path) -> tuple[Summary, pl.DataFrame]:
    summary = score(job, Output(str(out)), engine=in_process)
    return summary, pl.read_parquet(out / "*.parquet").sort("user_id")


def one_by_one(edition: RecommenderEdition, data: Path) -> dict[str, list[tuple[str, float]]]:
    """What a loop over users says: item and score, best first."""
    log = pl.read_parquet(data / "interactions.parquet").sort("timestamp", maintain_order=True)
    found = {}
    for user in pl.read_parquet(data / "asked.parquet")["user_id"]:
        events = log.filter(pl.col("user_id") == user)
        rows = edition.catalogue.rows(events["item_id"].to_list())
        newest_first = list(zip(rows.tolist(), events["type"].to_list(), strict=True))[::-1]
        history = edition.weigh([newest_first])
        allowed = np.ones(len(edition.catalogue), np.bool_)
        allowed[rows] = False
        features = np.zeros((1, 0), np.float32)
        scores, best = edition.recommend(history, features, k=K, allowed=allowed)
        found[user] = [
            (edition.catalogue.item_ids[row], float(value))
            for row, value in zip(best[0], scores[0], strict=True)
        ]
    return found


def test_every_user_gets_what_a_loop_over_users_gives(home, data, edition, tmp_path):
    summary, rows = run(make_job(home, data), tmp_path / "out")
    assert (summary.rows, summary.scored, summary.rejected) == (60, 60, 0)
    expected = one_by_one(edition, data)
    assert set(rows["user_id"]) == set(expected)
    for user, items, scores in rows.select("user_id", "item_ids", "scores").iter_rows():
        assert [item for item, _ in expected[user]] == items
        np.testing.assert_allclose([value for _, value in expected[user]], scores, rtol=1e-4)
    assert rows["model_version"].unique().to_list() == [summary.version]
    log = pl.read_parquet(data / "interactions.parquet")
    clicked = set(log.filter(pl.col("type") == "click")["user_id"])
    strangers = set(rows.filter(~pl.col("personalised"))["user_id"])
    assert strangers
    assert not strangers & clicked


def test_blocks_and_buckets_change_no_row(home, data, tmp_path, monkeypatch):
    _, rows = run(make_job(home, data), tmp_path / "out")
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 300)  # two users at a time
    job = make_job(home, data, bucket_bytes=1_000, block_rows=5)
    assert job.manifest.units > 3
    summary, again = run(job, tmp_path / "again")
    assert summary.parts > 12
    assert_frame_equal(again, rows, abs_tol=1e-5)


def test_a_large_catalogue_is_searched_with_the_index(home, data, tmp_path, monkeypatch):
    _, rows = run(make_job(home, data), tmp_path / "exact")
    monkeypatch.setattr(module, "EXACT_ITEMS", 0)
    _, again = run(make_job(home, data), tmp_path / "searched")
    assert_frame_equal(again, rows, abs_tol=1e-5)


def test_types_and_seen_items(home, data, tmp_path):
    job = make_job(home, data, item_types=("film",), exclude_seen=False)
    _, rows = run(job, tmp_path / "out")
    log = pl.read_parquet(data / "interactions.parquet")
    listed = rows.select("user_id", item_id="item_ids").explode("item_id")
    assert listed["item_id"].str.starts_with("film-").all()
    seen = listed.join(log, on=["user_id", "item_id"], how="inner")
    assert seen.height > 0
    refused = log.filter(pl.col("type").is_in(list(NEGATIVE_SIGNALS)))
    assert listed.join(refused, on=["user_id", "item_id"], how="inner").height == 0


def test_more_items_than_are_allowed_give_shorter_lists(home, data, tmp_path):
    _, rows = run(make_job(home, data, k=500, item_types=("film",)), tmp_path / "out")
    log = pl.read_parquet(data / "interactions.parquet").filter(
        pl.col("item_id").str.starts_with("film-")
    )
    seen = dict(log.group_by("user_id").agg(pl.col("item_id").n_unique()).iter_rows())
    lengths = dict(rows.select("user_id", pl.col("item_ids").list.len()).iter_rows())
    assert lengths == {user: 60 - seen.get(user, 0) for user in lengths}


def test_pairs_get_the_scores_of_the_lists(home, data, tmp_path):
    _, lists = run(make_job(home, data), tmp_path / "lists")
    pairs = lists.select("user_id", item_id="item_ids", expected="scores").explode(
        "item_id", "expected"
    )
    pairs = pl.concat([pairs, pairs.head(3), pairs.head(2).with_columns(item_id=pl.lit("gone"))])
    pairs.sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "pairs.parquet")
    job = make_job(
        home,
        data,
        kind="pairs",
        inputs=find_files([str(tmp_path / "pairs.parquet")], suffixes=TABLE_SUFFIXES),
    )
    summary, rows = run(job, tmp_path / "out")
    assert (summary.rows, summary.rejected) == (60 * K + 3, 2)
    joined = rows.join(pairs.unique(["user_id", "item_id"]), on=["user_id", "item_id"], how="left")
    np.testing.assert_allclose(joined["score"], joined["expected"], rtol=1e-4)
    rejects = read_rejects(tmp_path / "out")
    assert {each["reason"] for each in rejects} == {"the version has no such item"}
    assert all(1 <= each["row"] <= pairs.height for each in rejects)


def test_histories_of_the_online_store_give_the_same(
    home, data, tmp_path, redis_server, redis_client
):
    _, rows = run(make_job(home, data), tmp_path / "tables")
    materialise(Dataset.read(data), OnlineStore(redis_client), reporter=Silent())
    job = make_job(home, data, histories=OnlineSource(redis_server.url))
    _, again = run(job, tmp_path / "online")
    assert_frame_equal(again, rows, abs_tol=1e-5)


def test_users_without_an_id_are_rejected_and_repeated_ones_count_once(home, data, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,name\nu1,a\n,b\nu2,c\nu1,d\n")
    job = make_job(
        home, data, inputs=find_files([str(tmp_path / "users.csv")], suffixes=TABLE_SUFFIXES)
    )
    summary, rows = run(job, tmp_path / "out")
    assert rows["user_id"].to_list() == ["u1", "u2"]
    assert (summary.rejected, summary.counts) == (1, {"duplicates": 1})
    (reject,) = read_rejects(tmp_path / "out")
    assert reject["row"] == 2


def test_an_object_store_holds_input_and_output(home, data, tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.put(str(data), "/scoring/data", recursive=True)
    where = "memory://scoring/data"
    job = make_job(
        home,
        data,
        inputs=find_files([f"{where}/asked.parquet"], suffixes=TABLE_SUFFIXES),
        histories=TableSource(
            *find_files([f"{where}/interactions.parquet"], suffixes=TABLE_SUFFIXES)
        ),
    )
    summary = score(job, Output("memory://scoring/out"), engine=in_process)
    parts = [name for name in fs.ls("/scoring/out", detail=False) if "part-" in name]
    assert len(parts) == summary.parts
    rows = pl.concat([pl.read_parquet(fs.open(name)) for name in parts]).sort("user_id")
    assert_frame_equal(rows, run(make_job(home, data), tmp_path / "out")[1], abs_tol=1e-5)
    fs.rm("/scoring", recursive=True)


def test_users_get_the_same_lists_by_pseudonym_and_another_machine_needs_no_key(
    home: Path, data: Path, tmp_path: Path
) -> None:
    _, by_id = run(make_job(home, data), tmp_path / "by-id")
    job = make_job(home, data, pseudonyms=Pseudonyms(b"k" * 32))

    def elsewhere(job, units, **keywords):
        sent = pickle.dumps(job)
        assert b"kkkk" not in sent
        return in_process(pickle.loads(sent), units, **keywords)

    score(job, Output(str(tmp_path / "named")), engine=elsewhere)
    by_name = pl.read_parquet(tmp_path / "named" / "*.parquet").sort("user_id")
    assert_frame_equal(by_name, by_id)
    with pytest.raises(ValueError, match="its settings differ"):
        run(replace(job, pseudonyms=Pseudonyms(b"o" * 32)), tmp_path / "named")
