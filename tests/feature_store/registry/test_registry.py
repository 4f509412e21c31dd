import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from feature_store.registry import (
    CorruptVersionError,
    Registry,
    RegistryError,
    UnknownVersionError,
)


class AwayError(Exception):
    """What a store's client raises when nobody answers: no OSError, as with S3's."""


class Listing(MemoryFileSystem):
    """Answers from the listings that it once made, as the clients of S3 and others do."""

    protocol = "listing"
    cachable = False
    away = False

    def ls(self, path, detail=True, refresh=False):
        if self.away:
            raise AwayError("no endpoint")
        path = self._strip_protocol(path)
        if refresh or path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True)
        found = self.dircache[path]
        return found if detail else [each["name"] for each in found]

    def info(self, path):
        path = self._strip_protocol(path)
        if (listed := self.dircache.get(path.rsplit("/", 1)[0])) is not None:
            for each in listed:
                if each["name"] == path:
                    return each
            raise FileNotFoundError(path)
        return super().info(path)

    def cat_file(self, path, **kwargs):
        if self.away:
            raise AwayError("no endpoint")
        return super().cat_file(path, **kwargs)


fsspec.register_implementation("listing", Listing)


@pytest.fixture(params=["local", "object store"])
def registry(request, tmp_path: Path) -> Registry:
    root = tmp_path / "registry"
    if request.param == "local":
        return Registry(root)
    # The in-memory file system behaves as an object store does: no rename, put is atomic.
    return Registry(f"memory://{tmp_path.name}", cache=tmp_path / "cache")


def publish(registry: Registry, tmp_path: Path, text: str) -> str:
    staging = tmp_path / "staging"
    (staging / "towers").mkdir(parents=True, exist_ok=True)
    (staging / "towers" / "user.bin").write_text(text)
    return registry.publish(
        "recommender",
        staging,
        data_fingerprint="f",
        code_version="0",
        config={"dim": 4},
        metrics={"recall@20": 0.5},
    ).version


def test_a_published_version_opens_with_the_same_bytes(registry, tmp_path):
    version = publish(registry, tmp_path, "one")
    directory, manifest = registry.open("recommender", version)
    assert (directory / "towers" / "user.bin").read_text() == "one"
    assert manifest.config == {"dim": 4}
    assert manifest.metrics == {"recall@20": 0.5}
    assert [each.version for each in registry.versions("recommender")] == [version]
    assert registry.models() == ["recommender"]


def test_an_alias_moves_and_rolls_back(registry, tmp_path):
    first, second = publish(registry, tmp_path, "one"), publish(registry, tmp_path, "two")
    assert not registry.was_promoted("recommender")
    registry.promote("recommender", first, alias="champion")
    registry.promote("recommender", second, alias="champion")
    assert registry.was_promoted("recommender")
    assert registry.aliases("recommender") == {"champion": second}
    assert registry.rollback("recommender", alias="champion") == first
    assert registry.resolve("recommender", "champion") == first
    with pytest.raises(UnknownVersionError, match="no earlier version"):
        registry.rollback("recommender", alias="champion")


def test_promoting_the_present_champion_again_keeps_the_way_back(registry, tmp_path):
    first, second = publish(registry, tmp_path, "one"), publish(registry, tmp_path, "two")
    for version in (first, second, second):
        registry.promote("recommender", version, alias="champion")
    assert registry.rollback("recommender", alias="champion") == first


def test_what_others_publish_meanwhile_is_seen(tmp_path):
    watching, other = (
        Registry(f"listing://{tmp_path.name}", cache=tmp_path / name) for name in ("a", "b")
    )
    first = publish(other, tmp_path, "one")
    other.promote("recommender", first, alias="champion")
    assert watching.aliases("recommender") == {"champion": first}
    assert len(watching.versions("recommender")) == 1
    second = publish(other, tmp_path, "two")
    other.promote("recommender", second, alias="challenger")
    assert watching.resolve("recommender", "challenger") == second
    assert watching.aliases("recommender") == {"champion": first, "challenger": second}
    assert [each.version for each in watching.versions("recommender")] == [first, second]


def test_a_store_that_does_not_answer_is_an_oserror(tmp_path, monkeypatch):
    registry = Registry(f"listing://{tmp_path.name}", cache=tmp_path / "cache")
    version = publish(registry, tmp_path, "one")
    monkeypatch.setattr(Listing, "away", True)
    for ask in (registry.resolve, registry.manifest, registry.open):
        with pytest.raises(OSError, match="cannot be reached: no endpoint"):
            ask("recommender", version)
    with pytest.raises(OSError, match="cannot be reached"):
        registry.models()


def test_an_unknown_reference_lists_what_there_is(registry, tmp_path):
    version = publish(registry, tmp_path, "one")
    with pytest.raises(UnknownVersionError, match=version):
        registry.open("recommender", "nope")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_version_is_refused_by_name(tmp_path, damage):
    registry = Registry(tmp_path / "registry")
    version = publish(registry, tmp_path, "one")
    directory, _ = registry.open("recommender", version)
    path = directory / ("manifest.json" if damage == "manifest" else "towers/user.bin")
    if damage == "delete":
        path.unlink()
    else:
        path.write_text({"flip": "onf", "truncate": "o", "manifest": "{"}[damage])
    with pytest.raises(
        CorruptVersionError, match="manifest" if damage == "manifest" else "user.bin"
    ):
        registry.open("recommender", version)


def test_what_was_found_whole_is_not_read_again_and_what_was_written_since_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("feature_store.registry.verified._SETTLED_NS", 0)
    registry = Registry(tmp_path / "registry")
    version = publish(registry, tmp_path, "one")
    path = registry.open("recommender", version)[0] / "towers/user.bin"
    chunks: list[None] = []
    registry.promote("recommender", version, alias="champion", pause=lambda: chunks.append(None))
    assert not chunks
    before = path.stat()
    ticked = tmp_path / "ticked"
    ticked.touch()
    while ticked.stat().st_ctime_ns == before.st_ctime_ns:
        ticked.touch()
    path.write_text("onf")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptVersionError):
        registry.open("recommender", version)


def test_a_damaged_version_cannot_become_champion(tmp_path):
    registry = Registry(tmp_path / "registry")
    good, bad = publish(registry, tmp_path, "one"), publish(registry, tmp_path, "two")
    registry.promote("recommender", good, alias="champion")
    directory, _ = registry.open("recommender", bad)
    (directory / "towers/user.bin").write_text("xxx")
    with pytest.raises(CorruptVersionError):
        registry.promote("recommender", bad, alias="champion")
    assert registry.resolve("recommender", "champion") == good


def test_an_interrupted_publication_is_no_version(tmp_path):
    registry = Registry(tmp_path / "registry")
    version = publish(registry, tmp_path, "one")
    directory, _ = registry.open("recommender", version)
    (directory / "manifest.json").unlink()
    assert registry.versions("recommender") == []


def test_nothing_to_publish_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing to publish"):
        Registry(tmp_path).publish(
            "recommender",
            tmp_path / "empty",
            data_fingerprint="",
            code_version="",
            config={},
            metrics={},
        )


@pytest.mark.parametrize("text", ["", "nonsense", "{}", '{"history": [], "moved_at": 0}'])
def test_a_broken_alias_is_named_and_repaired_by_promoting(tmp_path, text):
    registry = Registry(tmp_path / "registry")
    version = publish(registry, tmp_path, "one")
    registry.promote("recommender", version, alias="champion")
    (path,) = (tmp_path / "registry").glob("**/champion.json")
    path.write_text(text)
    with pytest.raises(RegistryError, match="champion"):
        registry.open("recommender", "champion")
    assert registry.aliases("recommender") == {}
    assert registry.was_promoted("recommender")
    registry.promote("recommender", version, alias="champion")
    assert registry.resolve("recommender", "champion") == version


def test_concurrent_promotions_all_stay_in_the_history(tmp_path):
    registry = Registry(tmp_path / "registry")
    versions = [publish(registry, tmp_path, str(number)) for number in range(6)]
    code = (
        "import sys; from feature_store.registry import Registry\n"
        "Registry(sys.argv[1]).promote('recommender', sys.argv[2], alias='champion')"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "registry")]
    running = [subprocess.Popen([*arguments, version]) for version in versions]
    assert [process.wait() for process in running] == [0] * 6
    assert sorted(registry.alias_history("recommender", "champion")) == sorted(versions)


def test_a_folder_with_brackets_in_its_name_is_listed(tmp_path):
    registry = Registry(tmp_path / "a[1]x")
    version = publish(registry, tmp_path, "one")
    assert [each.version for each in registry.versions("recommender")] == [version]
    assert registry.models() == ["recommender"]


@pytest.mark.parametrize("name", ["../../x", "", "a/b", ".."])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    registry = Registry(tmp_path / "registry")
    version = publish(registry, tmp_path, "one")
    with pytest.raises(ValueError, match="no name"):
        registry.promote("recommender", version, alias=name)
    with pytest.raises(UnknownVersionError):
        registry.open("recommender", name)


def test_an_alias_of_a_version_that_is_gone_is_an_unknown_version(tmp_path):
    registry = Registry(tmp_path / "registry")
    version = publish(registry, tmp_path, "one")
    registry.promote("recommender", version, alias="champion")
    directory, _ = registry.open("recommender", version)
    shutil.rmtree(directory)
    with pytest.raises(UnknownVersionError, match="gone"):
        registry.open("recommender", "champion")
