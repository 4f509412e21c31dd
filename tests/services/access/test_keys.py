"""The file of keys, the rate of a key, and the log's lines."""

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access import (
    InvalidKeyFileError,
    JsonFormatter,
    KeyFile,
    issue,
    read_keys,
    write_keys,
)
from services.access.limits import BURST_S, RateLimits


def test_the_file_holds_no_key_and_is_its_owners(tmp_path) -> None:
    path = tmp_path / "keys.json"
    secret, key = issue("web", ["read"])
    write_keys(path, [key])
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert KeyFile(path).find(secret) == key


def test_a_key_expires(tmp_path) -> None:
    path = tmp_path / "keys.json"
    now = datetime.now(UTC)
    old, old_key = issue("old", ["read"], expires=now - timedelta(seconds=1))
    new, new_key = issue("new", ["read"], expires=now + timedelta(hours=1))
    write_keys(path, [old_key, new_key])
    assert KeyFile(path).find(old) is None
    assert KeyFile(path).find(new) == new_key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "JSON"),
        ('{"keys": [{"name": "a", "sha256": "12", "scopes": ["read"]}]}', "sha256"),
        ('{"keys": [{"name": "a", "sha256": "%s", "scopes": ["root"]}]}' % ("0" * 64), "scopes"),
        (
            '{"keys": [%s, %s]}'
            % ((f'{{"name": "a", "sha256": "{"0" * 64}", "scopes": ["read"]}}',) * 2),
            "twice",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_fault(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(InvalidKeyFileError, match=said):
        read_keys(path)
    with pytest.raises(InvalidKeyFileError):
        KeyFile(path)


@given(
    rate=st.floats(0.1, 1_000),
    pauses=st.lists(st.floats(0, 5), min_size=1, max_size=100),
)
def test_a_key_never_gets_more_than_its_rate_and_one_burst(rate: float, pauses) -> None:
    now = 0.0
    limits = RateLimits(clock=lambda: now)
    passed = 0
    for pause in pauses:
        now += pause
        wait_s = limits.wait_s("key", requests_per_s=rate)
        passed += wait_s == 0
        if wait_s:
            # Whoever waits as long as was said may pass.
            now += wait_s * 1.001
            assert limits.wait_s("key", requests_per_s=rate) == 0
            passed += 1
        assert passed <= max(1.0, BURST_S * rate) + rate * now + 1e-6


def test_a_line_of_the_log_is_one_object() -> None:
    record = logging.makeLogRecord({"name": "x", "levelno": 40, "levelname": "ERROR"})
    record.msg, record.args = 'two\nlines "quoted" %s', ("here",)
    record.status = 500
    (line,) = JsonFormatter().format(record).splitlines()
    said = json.loads(line)
    assert said["message"] == 'two\nlines "quoted" here'
    assert said["level"] == "error"
    assert said["status"] == 500
    assert datetime.fromisoformat(said["time"]).tzinfo is not None
