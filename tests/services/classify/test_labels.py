"""The offline log of labels."""

from pathlib import Path

from services.classify.labels import Label, LabelLog


def test_the_labels_behind_entries_are_found_and_torn_lines_are_not_in_the_way(
    tmp_path: Path,
) -> None:
    log = LabelLog(tmp_path)
    assert log.find([1]) == {}
    said = [Label(name, "video", "ann", "f") for name in ("p0", "p1", "p0")]
    log.append(said[:2])
    (day,) = tmp_path.iterdir()
    day.rename(tmp_path / "2020-01-01.jsonl")
    log.append(said[2:3])
    newest = max(tmp_path.iterdir())
    with newest.open("ab") as file:
        file.write(b'{"time": 1.0, "predic')
    unnamed = Label("p9", "chat", "bob")
    log.append([unnamed])
    found = log.find([said[0].entry_id, said[1].entry_id, unnamed.entry_id, 7])
    assert {key: each.label for key, each in found.items()} == {
        said[0].entry_id: said[2],  # with the same id, on a later day
        said[1].entry_id: said[1],
        unnamed.entry_id: unnamed,
    }
