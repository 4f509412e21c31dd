"""Pseudonyms of users: who holds the key makes the same ones everywhere, and nobody else any."""

import pickle
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.pseudonyms import SHAPE, Pseudonyms, differs, key_of

KEY, OTHER = Pseudonyms(b"k" * 32), Pseudonyms(b"o" * 32)


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_user_has_one_name_and_two_users_have_two(first: str, second: str) -> None:
    assert re.fullmatch(SHAPE, KEY(first))
    assert (KEY(first) == KEY(second)) == (first == second)
    assert KEY(first) != OTHER(first)


@given(st.text(min_size=1))
def test_a_name_is_left_as_it_is_by_its_own_key_alone(user_id: str) -> None:
    name = KEY(user_id)
    assert KEY(name) == name
    assert OTHER(name) not in (name, OTHER(user_id))


def test_white_space_around_a_secret_does_not_count(tmp_path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\n" + b"k" * 32 + b"\r\n")
    assert Pseudonyms.read(path)("ann") == KEY("ann")


def test_what_is_no_key_is_told(tmp_path) -> None:
    path = tmp_path / "key"
    with pytest.raises(FileNotFoundError, match="errata users key"):
        Pseudonyms.read(path)
    path.write_text("short")
    with pytest.raises(ValueError, match=r"key: .*at least 32 characters, not 5"):
        Pseudonyms.read(path)


def test_other_processes_make_the_same_names_and_nothing_shows_the_secret() -> None:
    assert pickle.loads(pickle.dumps(KEY))("ann") == KEY("ann")
    assert "kkk" not in repr(KEY)


def test_a_column_is_named_as_its_values_are() -> None:
    ids = pl.Series("user_id", ["ann", "bob", "ann", KEY("cleo")])
    assert KEY.column(ids).to_list() == [KEY("ann"), KEY("bob"), KEY("ann"), KEY("cleo")]
    assert KEY.column(ids).name == "user_id"
    assert (key_of(ids), key_of(KEY.column(ids))) == (None, KEY.key_id)
    with pytest.raises(ValueError, match=f"named by the key {OTHER.key_id}.* {KEY.key_id}"):
        KEY.column(OTHER.column(pl.Series(["ann"])))


def test_names_that_do_not_meet_are_told() -> None:
    assert differs(None, None, whose="Redis names") is None
    assert differs(KEY.key_id, KEY.key_id, whose="Redis names") is None
    told = differs(None, KEY.key_id, whose="Redis names")
    assert told is not None
    assert told.startswith("Redis names users as they were sent, and here they are named by")
