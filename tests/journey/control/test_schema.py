"""Whatever fits the description, or nearly, is answered as the description says, and never with a 5xx.

`SCHEMATHESIS_EXAMPLES` is how many requests each route gets of either kind; `scripts/schema` sends many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from tests.control import ControlRig, World
from tests.journey.control.samples import SAMPLES, calm, host_weather

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
STREAMS = {path for (_, path), sample in SAMPLES.items() if sample.stream} | {
    path for _, path in SAMPLES if path.endswith("/export")
}
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="SCHEMATHESIS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


async def test_every_route_answers_as_it_is_described(control: ControlRig, world: World) -> None:
    await host_weather(control)
    described = await asyncio.to_thread(schemathesis.openapi.from_url, f"{control.url}/openapi.json")
    tried = set()
    for found in described.get_all_operations():
        operation = found.ok()
        if operation.path in STREAMS:
            continue
        tried.add((operation.method.upper(), operation.path))
        known = {
            "tenant": "acme",
            **await SAMPLES[operation.method.upper(), operation.path].make(control, world.acme),
        }
        token = await somebody(control, world, operation)
        await asyncio.to_thread(try_out, operation, token, known)
        await calm(control)
    assert tried == {key for key in SAMPLES if key[1] not in STREAMS}


def try_out(operation: APIOperation, token: str, known: dict[str, str]) -> None:
    """Send what fits, half of it about things that are there, and what does not fit."""
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @given(case=operation.as_strategy(mode), real=st.booleans())
        @LIMITS
        def send(case: Case, real: bool) -> None:
            if real:
                case.path_parameters = {name: known.get(name, value) for name, value in case.path_parameters.items()}
            case.call_and_validate(headers={"authorization": f"Bearer {token}"}, checks=CHECKS)

        with contextlib.suppress(Unsatisfiable):  # there are routes in which nothing can be wrong
            send()


async def somebody(control: ControlRig, world: World, operation: APIOperation) -> str:
    """Who may do it; somebody of no further use where that ends their sign-in."""
    permission = operation.definition.raw["x-permission"]
    ends = SAMPLES[operation.method.upper(), operation.path].alone
    if permission == "operator":
        return (await control.operator() if ends else world.operator).token
    return ((await control.sign_up())[1] if ends and permission == "user" else world.acme.owner).token
