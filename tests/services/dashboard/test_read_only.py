"""Promotion where the service may only read the registry, as in the chart."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_store.registry import Registry

# The system's administrator may write anywhere: whoever runs this is nobody in particular.
PROMOTE = """
import json, os, sys
from fastapi import FastAPI
from fastapi.testclient import TestClient
from feature_store.registry import Registry
from services import problems
from services.dashboard import admin

root, version = sys.argv[1:]
app = FastAPI()
problems.install(app)
app.include_router(admin.router(Registry(root), lambda: ()))
with TestClient(app) as client:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    answers = [
        client.post(f"/v1/models/recommender/{what}", json=body)
        for what, body in (("promote", {"version": version}), ("rollback", {}))
    ]
told = [(each.status_code, each.headers["content-type"], each.json()) for each in answers]
print(json.dumps(told))
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that anybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        yield Path(directory)
        for path in [Path(directory), *Path(directory).rglob("*")]:
            path.chmod(0o755)


def test_a_registry_that_may_only_be_read_is_said_to_be_so(root: Path) -> None:
    staging = root / "staging"
    staging.mkdir()
    (staging / "model").write_text("weights")
    registry = Registry(root / "registry")
    facts = {"data_fingerprint": "test", "code_version": "test", "config": {}, "metrics": {}}
    one, two = (registry.publish("recommender", staging, **facts).version for _ in range(2))
    for version in (one, two):
        registry.promote("recommender", version, alias="champion")
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = subprocess.run(
        [sys.executable, "-c", PROMOTE, str(root / "registry"), one],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for status, media_type, problem in json.loads(done.stdout):
        assert status == 503
        assert media_type == "application/problem+json"
        assert problem["title"] == "The registry cannot be changed"
        assert "nothing was moved: Permission denied" in problem["detail"]
        assert "errata registry promote" in problem["detail"]
        assert str(root) not in problem["detail"]
    assert registry.resolve("recommender", "champion") == two
