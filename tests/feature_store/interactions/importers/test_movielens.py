import gzip
from pathlib import Path

import pytest

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers import import_dataset
from feature_store.interactions.rejects import TooManyRejects
from feature_store.interactions.schema import SchemaError

FLAGS = "0|0|0|1|1|1" + "|0" * 13


def assert_two_ratings(dataset: Dataset) -> None:
    log = dataset.interactions
    assert log.select("user_id", "item_id", "type", "weight").rows() == [
        ("1", "1", "rating", 4.0),
        ("2", "7", "rating", 3.5),
    ]
    assert log["timestamp"].dt.epoch("s").to_list() == [964982703, 964981247]


def write_100k(folder: Path) -> Path:
    (folder / "u.data").write_text("1\t1\t4\t964982703\n2\t7\t3.5\t964981247\n")
    item = f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{FLAGS}\n"
    (folder / "u.item").write_bytes(item.encode("latin-1"))
    (folder / "u.user").write_text("1|24|M|technician|85711\n")
    return folder


def write_1m(folder: Path) -> Path:
    (folder / "ratings.dat").write_text("1::1::4::964982703\n2::7::3.5::964981247\n")
    movie = "1::Misérables, Les (1995)::Animation|Children's|Comedy\n"
    (folder / "movies.dat").write_bytes(movie.encode("latin-1"))
    (folder / "users.dat").write_text("1::M::24::20::85711\n")
    return folder


def write_latest(folder: Path) -> Path:
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n2,7,3.5,964981247\n"
    )
    (folder / "movies.csv").write_text(
        "movieId,title,genres\n"
        '1,"Misérables, Les (1995)",Animation|Children\'s|Comedy\n'
        "8,Nothing (2001),(no genres listed)\n"
    )
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n1,0114709,862\n")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")
    return folder


@pytest.mark.parametrize("write", [write_100k, write_1m, write_latest])
def test_the_three_layouts_mean_the_same(tmp_path: Path, write: object) -> None:
    dataset = import_dataset(write(tmp_path))  # type: ignore[operator]
    assert_two_ratings(dataset)
    genres = ["Animation", "Children's", "Comedy"]
    assert dataset.items.row(0) == ("1", "movie", "Misérables, Les (1995)", genres)
    assert dataset.items.row(-1) == ("7", "item", None, None)


@pytest.mark.parametrize(("write", "job"), [(write_100k, "technician"), (write_1m, "20")])
def test_users_have_an_age_in_numbers(tmp_path: Path, write: object, job: str) -> None:
    users = import_dataset(write(tmp_path)).users  # type: ignore[operator]
    assert users is not None
    row = users.select("user_id", "age", "gender", "occupation", "zip_code").row(0)
    assert row == ("1", 24.0, ["M"], [job], ["85711"])


def test_a_movie_without_genres_has_none(tmp_path: Path) -> None:
    dataset = import_dataset(write_latest(tmp_path))
    assert dataset.items.row(1) == ("8", "movie", "Nothing (2001)", None)


@pytest.mark.parametrize("at", [".", "ratings.csv.gz"])
def test_the_ratings_alone_are_enough_zipped_too(tmp_path: Path, at: str) -> None:
    text = "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n2,7,3.5,964981247\n"
    (tmp_path / "ratings.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert_two_ratings(import_dataset(tmp_path / at))


def test_another_ratings_csv_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,book,stars\n1,2,3\n")
    with pytest.raises(ValueError, match=r"ratings.csv with the header userId,movieId"):
        import_dataset(tmp_path)
    with pytest.raises(SchemaError, match="has the header user,book,stars; expected userId"):
        import_dataset(tmp_path, format="movielens")


def test_a_cut_line_is_found(tmp_path: Path) -> None:
    write_1m(tmp_path)
    (tmp_path / "ratings.dat").write_text("1::1::4::964982703\n2::7::3.5\n")
    with pytest.raises(TooManyRejects, match=r"ratings.dat:2: wrong number of columns: 2::7::3.5"):
        import_dataset(tmp_path)


def test_movielens_latest_small(data_sets: Path) -> None:
    summary = import_dataset(data_sets / "streams/ml-latest-small").summary()
    assert (summary.interactions, summary.users, summary.items) == (100_836, 610, 9_724)
