import json
from pathlib import Path
from typing import Any

import pytest

from feature_store.interactions.importers import import_dataset
from feature_store.interactions.rejects import RejectPolicy, Rejects


def track(uri: str | None, name: str = "Song") -> dict[str, Any]:
    return {
        "pos": 0,
        "track_uri": uri,
        "track_name": name,
        "artist_name": "Band",
        "album_name": "Album",
    }


def write(folder: Path, start: int, *playlists: list[dict[str, Any]]) -> None:
    content = [
        {"pid": start + n, "name": "mix", "modified_at": 1493424000, "tracks": tracks}
        for n, tracks in enumerate(playlists)
    ]
    path = folder / f"mpd.slice.{start}-{start + 999}.json"
    path.write_text(json.dumps({"info": {}, "playlists": content}))


def test_playlists_are_users_and_tracks_items(tmp_path: Path) -> None:
    write(tmp_path, 0, [track("spotify:track:a"), track("spotify:track:b")], [])
    write(tmp_path, 1000, [track("spotify:track:a", "Other name")])
    dataset = import_dataset(tmp_path)
    assert dataset.interactions.select("user_id", "item_id", "type").rows() == [
        ("0", "spotify:track:a", "playlist"),
        ("0", "spotify:track:b", "playlist"),
        ("1000", "spotify:track:a", "playlist"),
    ]
    assert dataset.interactions["timestamp"][0].year == 2017
    assert dataset.items.row(0) == ("spotify:track:a", "track", "Song Band", ["Band"], ["Album"])
    assert dataset.items.height == 2


def test_tracks_without_an_id_are_rejected_with_their_playlist(tmp_path: Path) -> None:
    write(tmp_path, 0, [track("spotify:track:a")], [track(None), track("")])
    rejects = Rejects(policy=RejectPolicy(max_share=1))
    assert import_dataset(tmp_path, rejects=rejects).interactions.height == 1
    assert dict(rejects.by_reason) == {"missing item_id": 2}
    assert rejects.first()[0].line == 2
    assert json.loads(rejects.first()[0].row)["user_id"] == "1"
    assert rejects.total == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"playlists": [1]}', '{"playlists": [{"pid": 1}]}'])
def test_a_slice_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mpd.slice.0-999.json").write_text(text)
    with pytest.raises(ValueError, match=r"mpd.slice.0-999.json is not a slice of playlists"):
        import_dataset(tmp_path)
