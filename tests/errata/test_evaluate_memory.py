import json

import pytest

from errata.cli.main import run

TRAIN = [
    *("--set", "towers.epochs=1", "--set", "towers.dimension=8", "--set", "threads=1"),
    *("--set", "graph_network.enabled=false", "--set", "evaluation.baselines=[popularity]"),
    *("--set", "split.test_share=0.4"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a champion, and the tables that it was trained on."""
    root = tmp_path_factory.mktemp("memory")
    tables = root / "tables"
    tables.mkdir()
    rows = [f"u{n % 12},i{(n * n + 3 * n) % 97},{1_700_000_000 + n * 600}" for n in range(900)]
    text = "user_id,item_id,timestamp\n" + "\n".join(rows) + "\n"
    (tables / "interactions.csv").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERRATA_HOME", str(root / "home"))
        patch.delenv("ERRATA_REDIS_URL", raising=False)
        assert run(["train", "recommender", "--data", str(tables), *TRAIN, "--promote"]) == 0
        yield tables


def test_every_way_is_measured_and_the_page_is_written(trained, tmp_path, capsys):
    capsys.readouterr()
    arguments = ["--data", str(trained), "--delay", "32", "--retrain-every", "1d", "--json"]
    page = tmp_path / "out" / "memory.html"
    assert run(["evaluate", "memory", *arguments, "--report", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["arms"]) == [
        *("base", "memory", "incremental", "incremental+memory", "retrain", "retrain+memory"),
    ]
    assert set(told["arms"]["base"]) == {"auc", "gauc", "log_loss", "gain", "windows"}
    assert told["notes"]["seen in training"].startswith("no")
    assert "over time" in page.read_text()


def test_the_tuner_takes_the_users_tables(trained, capsys):
    capsys.readouterr()
    assert run(["memory", "tune", "--data", str(trained), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["judged_by"] == "auc"
    assert told["enabled"] == (told["interval"][0] > 0 and told["log_loss_saved"] >= 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--arms", "base,oracle"], "no 'oracle' among"),
        (["--retrain-every", "soon"], "a period is a number"),
        (["--delay", "4000"], "a smaller --delay"),
        (["--since", "2999-01-01"], "earlier --since"),
    ],
)
def test_a_mistake_is_one_line(trained, capsys, arguments, says):
    assert run(["evaluate", "memory", "--data", str(trained), *arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown
