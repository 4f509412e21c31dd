"""Asks a running service the questions that an install must answer. Usage: answers.py URL"""

import json
import sys
import urllib.error
import urllib.request


def ask(url: str) -> tuple[int, str]:
    """Status and body, also of an error."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        sys.exit(f"{url} does not answer ({error}): is a model published, and a pod ready?")


base = sys.argv[1]
alive, _ = ask(f"{base}/healthz")
ready, said = ask(f"{base}/readyz")
print(f"alive {alive}, ready {ready}: {said}")
assert alive == 200, "the process does not answer"
# Asked past the Service, a pod without a model says so in place of failing.
assert ready in (200, 503), "readiness must be known"
assert json.loads(said)["status"] in ("ok", "degraded", "unavailable")
