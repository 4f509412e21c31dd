"""`errata keys`: made, listed, revoked."""

import json
from pathlib import Path

import pytest

from errata.cli.main import run
from services.access import KeyFile


@pytest.fixture
def file(tmp_path: Path, monkeypatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("ERRATA_API_KEYS", str(path))
    return path


def test_a_key_is_shown_once_counts_and_is_revoked(file: Path, capsys) -> None:
    assert run(["keys", "create", "web", "--scope", "read", "--scope", "feedback"]) == 0
    secret = capsys.readouterr().out.strip()
    assert KeyFile(file).find(secret).scopes == ("read", "feedback")
    assert run(["keys", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["name"] == "web"
    assert "sha256" not in listed
    assert run(["keys", "revoke", "web"]) == 0
    assert KeyFile(file).find(secret) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "create", "web"],
        ["keys", "create", "web", "--scope", "root"],
        ["keys", "create", "a b", "--scope", "read"],
        ["keys", "revoke", "nobody"],
        ["keys", "list", "--file", "missing.json"],
    ],
)
def test_wrong_use_is_one_line(file: Path, arguments: list[str], capsys) -> None:
    assert run(["keys", "create", "known", "--scope", "read"]) == 0
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "Traceback" not in said.err


def test_a_name_is_given_once(file: Path) -> None:
    assert run(["keys", "create", "web", "--scope", "read"]) == 0
    assert run(["keys", "create", "web", "--scope", "admin"]) == 2
