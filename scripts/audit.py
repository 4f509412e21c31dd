"""Ask for known vulnerabilities of the installed packages.

    python scripts/audit.py

Exit 0: none is known; 1: some are, and are listed; 3: nobody could be asked. A package that the
vulnerability service does not know is not audited, however good its silence looks: where all are
unknown, the service was not reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SERVICES = ("pypi", "osv")
TIMEOUT_S = 300


def main() -> int:
    """Ask one service after another until one knows the packages."""
    for service in SERVICES:
        dependencies, problem = ask(service)
        known = [each for each in dependencies if "skip_reason" not in each]
        if not known:
            reason = problem or "it knows none of the packages (a mirror without such data?)"
            print(f"audit: {service}: {reason}", file=sys.stderr)
            continue
        found = [(each, vulnerability) for each in known for vulnerability in each["vulns"]]
        for each, vulnerability in found:
            mended = ", ".join(vulnerability["fix_versions"]) or "nothing yet"
            name = f"{each['name']} {each['version']}"
            print(f"{name}: {vulnerability['id']}, mended by {mended}")
        print(f"audit: {service}: {len(known)} of {len(dependencies)} packages, {len(found)} known")
        return 1 if found else 0
    print(
        "audit: NOTHING WAS AUDITED. No vulnerability data could be reached: run this where "
        "https://pypi.org (itself, not a mirror) or https://api.osv.dev can be asked.",
        file=sys.stderr,
    )
    return 3


def ask(service: str) -> tuple[list[dict[str, Any]], str]:
    """The packages as pip-audit reports them, and its last word where it has no report."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--format", "json"]
    command += ["--progress-spinner", "off", "--vulnerability-service", service]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return json.loads(done.stdout)["dependencies"], ""
    except subprocess.TimeoutExpired:
        return [], f"no answer within {TIMEOUT_S} s"
    except (json.JSONDecodeError, KeyError):
        if "ConnectionError" in done.stderr:
            return [], "it cannot be reached from here"
        said = done.stderr.strip().splitlines()
        return [], said[-1][:200] if said else "no report"


if __name__ == "__main__":
    sys.exit(main())
