from __future__ import annotations

import pytest
from tests.control import ControlRig

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_whoever_asks_learns_the_version_and_who_may_sign_up(control: ControlRig) -> None:
    async with control.client() as http:
        for path in ("/v1", "/v1/"):
            answer = await http.get(path)
            assert answer.status_code == 200
            assert answer.json()["signup"] == "open"
        head = await http.head("/v1")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["ratelimit-policy"].startswith('"control";q=')


async def test_an_unknown_address_is_a_problem_that_says_so(control: ControlRig) -> None:
    async with control.client() as http:
        answer = await http.get("/v1/nothing/here")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"].endswith("/docs/problems#not-found")
        assert problem["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
        wrong = await http.delete("/v1")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")


async def test_the_description_is_served(control: ControlRig) -> None:
    async with control.client() as http:
        schema = (await http.get("/openapi.json")).json()
        assert "/v1" in schema["paths"]
        assert "HTTPValidationError" not in schema["components"]["schemas"]
