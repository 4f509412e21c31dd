"""Spotify's Million Playlist Dataset: `mpd.slice.*.json`, a thousand playlists each.

Format: https://www.aicrowd.com/challenges/spotify-million-playlist-dataset-challenge. A playlist is
a user, its tracks are the items, and the time of each is the playlist's last change.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers.source import Source
from feature_store.interactions.importers.table import to_table
from feature_store.interactions.rejects import LINE, Rejects

_COLUMNS = {
    LINE: pl.Int64,
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Float64,
    "track": pl.String,
    "artist": pl.String,
    "album": pl.String,
}


class SpotifyMPDImporter:
    """A folder or archive of slices, or one slice.

    Items have the text `title` (track and artist) and the categories `artist` and `album`. In
    rejects, the line is the playlist's place in its slice, from 1, and a row is a track.
    """

    name = "spotify_mpd"
    looks_for = "mpd.slice.*.json"

    def matches(self, path: Path) -> bool:
        """See `Importer.matches`."""
        return bool(Source(path).find("mpd.slice.*.json"))

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """See `Importer.read`."""
        source = Source(path)
        names = source.find("mpd.slice.*.json")
        if not names:
            raise ValueError(f"expected {self.looks_for} in {path}; none is there")
        parts = [_read(source, name, rejects) for name in names]
        log = pl.concat([interactions for interactions, _ in parts])
        items = pl.concat([items for _, items in parts])
        return Dataset(log, items.unique("item_id", keep="first", maintain_order=True))


def _read(source: Source, name: str, rejects: Rejects) -> tuple[pl.DataFrame, pl.DataFrame]:
    tracks = pl.DataFrame(list(_tracks(source.read(name), name)), _COLUMNS, orient="row")
    rejects.saw(tracks.height)
    log = tracks.select(LINE, "user_id", "item_id", "timestamp", type=pl.lit("playlist"))
    interactions = to_table("interactions", log, file=name, rejects=rejects)
    items = tracks.filter(pl.col("item_id").is_in(interactions["item_id"].unique().implode()))
    items = items.unique("item_id", keep="first", maintain_order=True).select(
        "item_id",
        item_type=pl.lit("track"),
        title=pl.concat_str("track", "artist", separator=" ", ignore_nulls=True),
        artist=pl.concat_list("artist"),
        album=pl.concat_list("album"),
    )
    return interactions, to_table("items", items, file=name, rejects=rejects)


def _tracks(data: bytes, name: str) -> Iterator[tuple[Any, ...]]:
    try:
        playlists = json.loads(data)["playlists"]
        for place, playlist in enumerate(playlists, start=1):
            user = _text(playlist.get("pid"))
            changed = playlist.get("modified_at")
            for track in playlist["tracks"]:
                yield (
                    place,
                    user,
                    _text(track.get("track_uri")),
                    changed,
                    _text(track.get("track_name")),
                    _text(track.get("artist_name")),
                    _text(track.get("album_name")),
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = '{"playlists": [{"pid": 1, "tracks": [{"track_uri": "…"}]}]}'
        raise ValueError(
            f"{name} is not a slice of playlists such as {expected}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
