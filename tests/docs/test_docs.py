"""Every command of the documentation, as a reader would give it; and links that lead somewhere.

Blocks of `sh` are marked in the page's source, invisible to readers: `<!-- run -->`, or
`<!-- not run: REASON -->`. What is run goes through one shell, page after page.
"""
# ruff: noqa: F401, F811 (fixtures of another room)

import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_store.registry import Registry
from tests.errata.test_cli import write_tables
from tests.services.classify.conftest import publish, served, write_mixed
from tests.services.conftest import traffic, trained

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# In the order in which a reader may follow them: each may use what those before it left.
FOLLOWED = [
    "quickstart.md",
    "howto/import-data.md",
    "howto/add-item-type.md",
    "howto/label-traffic.md",
    "howto/upgrade.md",
    "security.md",
]
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 600


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(mark, commands) of each block."""
    yield from _BLOCK.findall((DOCS / page).read_text())


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_or_says_why_not(page: str) -> None:
    for mark, commands in blocks(page):
        reason = mark.removeprefix("not run:").strip() if mark.startswith("not run:") else ""
        assert mark == "run" or reason, f"{page}: unmarked block:\n{commands}"
        assert mark != "run" or page in FOLLOWED, f"{page} is not followed by this test"


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = (DOCS / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = ((DOCS / page).parent / path) if path else DOCS / page
        assert file.exists(), f"{page}: {target}"
        if heading:
            found = {slug(each) for each in re.findall(r"^#+ (.*)$", file.read_text(), re.M)}
            assert heading in found, f"{page}: {target}"


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_reference_is_up_to_date(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "scripts" / "reference.py"))["main"](tmp_path)
    for path in tmp_path.iterdir():
        written = DOCS / "reference" / path.name
        assert path.read_text() == written.read_text(), f"{written} is old: make docs"


@pytest.fixture
def home(served) -> Iterator[Path]:
    # A short path: a unix socket's holds at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        home = Path(directory)
        publish(Registry(home / "registry"), served.edition, home / "staging")
        yield home


def test_the_commands_do_what_the_pages_say(home: Path, tmp_path: Path) -> None:
    write_tables(tmp_path / "shop")
    write_mixed(tmp_path / "trace.pcap", flows=2, seed=7)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"]
    command = tmp_path / "bin" / "errata"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m errata "$@"\n')
    command.chmod(0o755)
    for page in FOLLOWED:
        for mark, commands in blocks(page):
            if mark == "run":
                here = commands.replace("localhost:8000", f"localhost:{port}")
                here = here.replace("errata serve &", f"errata serve --port {port} &")
                script += [f"echo '== {page}'", here]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ERRATA_")}
    log = tmp_path / "log"
    with log.open("w") as file:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=environment
            | {"ERRATA_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
            | {"OMP_NUM_THREADS": "1", "PATH": f"{command.parent}:{os.environ['PATH']}"},
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    said = log.read_text()
    assert done.returncode == 0, said[-3_000:]
    assert '"item_id":"p1"' in said
    assert '"outcomes":["learned"]' in said
    assert '"degraded":true' not in said
