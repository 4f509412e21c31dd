import json
from pathlib import Path

import pytest

from errata.cli.main import run
from tests.pipelines.traffic.conftest import write_captures

QUICK = [
    *("--set", "threads=1", "--set", "network.packets=6", "--set", "network.epochs=2"),
    *("--set", "network.encoder.d_model=16", "--set", "network.encoder.layers=1"),
    *("--set", "pretraining.epochs=1", "--set", "tree.rounds=10"),
    *("--set", "evaluation.baselines=[majority, lightgbm]"),
    *("--set", "evaluation.resamples=10"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    return write_captures(tmp_path / "captures", recordings=3, flows=8)


def test_training_publishes_a_version_whose_card_can_be_read(
    captures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "traffic", "--data", str(captures), *QUICK, "--promote", "--json"]
    assert run(train) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["promoted"] is True
    own = {"errata", "network", "tree", "forest"}
    assert set(told["scores"]["T1"]) == own | {"majority", "lightgbm"}
    assert run(["registry", "card", "--model", "traffic"]) == 0
    card = capsys.readouterr().out
    assert "How it was measured" in card
    assert "LightGBM" in card


def test_the_protocol_is_told_for_every_tier(
    captures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "card.md"
    evaluate = ["evaluate", "traffic", "--data", str(captures), "--protocol", "honest", *QUICK]
    assert run([*evaluate, "--card", str(card), "--json"]) == 0
    (seed,) = json.loads(capsys.readouterr().out)["seeds"]
    assert {"T0", "T1"} <= set(seed["scores"])
    assert "T0 macro F1" in card.read_text()


def test_a_folder_without_captures_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "traffic", "--data", str(tmp_path)]) == 2
    assert "no capture" in capsys.readouterr().err


def test_one_class_is_wrong_use_and_says_how_to_label(
    captures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "traffic", "--data", str(captures / "chat"), *QUICK]) == 2
    assert "folder per class" in capsys.readouterr().err


def test_a_version_without_a_card_says_where_its_metrics_are(
    captures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["registry", "card", "--model", "traffic"]) == 1
    assert "champion" in capsys.readouterr().err
