"""Requests made up from the OpenAPI document: no failure, and no answer that it does not name."""

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort

from .conftest import publish, serving

CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
EXAMPLES_PER_OPERATION = 15


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it imports
def test_no_answer_is_a_failure_or_undocumented(registry, settings, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis
        from schemathesis.checks import CHECKS

    publish(registry, tmp_path / "one")
    with serving(settings()) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        checks = CHECKS.get_by_names(CHECKED)
        met = 0
        for found in schema.get_all_operations():
            _ask(found.ok(), checks)
            met += 1
        assert met >= 9


def _ask(operation, checks) -> None:
    @effort(
        max_examples=EXAMPLES_PER_OPERATION,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(case=operation.as_strategy())
    def answers(case):
        case.call_and_validate(checks=checks)

    answers()
