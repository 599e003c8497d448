"""schemathesis on our own schema: whatever comes in, no 500, and answers that are what the schema says."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from burnish.service.app import ROUTES
from tests.service.double import Double, serving

KEY = {"Authorization": "Bearer alpha"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_input_breaks_the_server(mode: Any) -> None:
    with serving(Double(), api_keys=("alpha",)) as url:
        described = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=KEY)
        operations = [found.ok() for found in described.get_all_operations()]
        assert len(operations) == len(ROUTES)
        for operation in operations:
            if mode is GenerationMode.POSITIVE:
                assert 200 in try_inputs(operation, mode), operation.label
            elif operation.body:  # any string is a path, so only bodies can be wrong
                assert 400 in try_inputs(operation, mode), operation.label


def try_inputs(operation: Any, mode: Any) -> set[int]:
    """Calls one operation with random inputs; returns the status codes seen."""
    statuses: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    def once(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "double"  # a random name would never get past the 404
        if case.path_parameters and mode is GenerationMode.POSITIVE:
            case.path_parameters["model"] = "double"
        statuses.add(case.call_and_validate(checks=CHECKS, headers=KEY).status_code)

    once()
    return statuses


def test_the_schema_describes_streams_and_errors(base_url: str) -> None:
    paths = httpx.get(f"{base_url}/openapi.json").json()["paths"]
    for path in ("/v1/chat/completions", "/v1/completions"):
        responses = paths[path]["post"]["responses"]
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        assert set(responses) == {"200", "4XX", "5XX"}
