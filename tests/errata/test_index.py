import json

import pytest

from errata.cli.main import run

QUICK = [
    *("--set", "towers.epochs=1", "--set", "towers.dimension=8", "--set", "threads=1"),
    *("--set", "graph_network.enabled=false", "--set", "evaluation.baselines=[popularity]"),
]


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """A version trained on tables of 40 users."""
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ERRATA_REDIS_URL", raising=False)
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"u{n % 40},i{(n * n + 3 * n) % 29},{1_700_000_000 + n * 60}" for n in range(400)]
    (data / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    assert run(["train", "recommender", "--data", str(data), *QUICK, "--promote"]) == 0
    capsys.readouterr()
    return data


def test_an_index_is_tuned_on_users_and_its_recall_is_in_the_manifest(trained, capsys):
    arguments = ["index", "build", "--data", str(trained), "--k", "10", "--target-recall", "0.9"]
    assert run([*arguments, "--kind", "ivf", "--promote", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["promoted"]
    assert built["index"]["kind"] == "ivf"
    assert built["index"]["recall"] >= 0.9

    assert run(["registry", "show", "champion"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["version"] == built["version"]
    assert shown["metrics"]["index"]["recall"] == built["index"]["recall"]
    assert "report.html" in shown["files"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "annoy"], "flat, hnsw, ivf, ivfpq"),
        ([], "errata materialise"),  # nobody is in Redis
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(trained, capsys, arguments, said):
    assert run(["index", "build", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
