from __future__ import annotations

import pytest
import structlog
from starlette.exceptions import HTTPException
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


async def test_every_route_is_described_with_an_example_of_its_body_and_its_errors(control: ControlRig) -> None:
    async with control.client() as http:
        schema = (await http.get("/openapi.json")).json()
        page = (await http.get("/docs")).text
    operations = [
        (method, path, each) for path, methods in schema["paths"].items() for method, each in methods.items()
    ]
    assert len({each["operationId"] for _, _, each in operations}) == len(operations)
    for method, path, each in operations:
        assert each["description"], path
        assert each["x-permission"], path
        assert {"401", "403", "404", "422", "429", "503"} <= set(each["responses"]), path
        for status, answer in each["responses"].items():
            assert int(status) < 400 or "application/problem+json" in answer["content"], (path, status)
        assert f"{method.upper()} {path}" in page
    for name, model in schema["components"]["schemas"].items():
        assert model.get("description") or name.startswith("Page_"), name


async def test_each_type_of_problem_leads_to_a_place_that_describes_it(control: ControlRig) -> None:
    async with control.client() as http:
        page = await http.get("/docs/problems")
        assert "<script" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for path in ("/v1/me", "/v1/nothing"):
            kind = (await http.get(path)).json()["type"]
            assert f'id="{kind.rpartition("#")[2]}"' in page.text


async def test_pages_of_other_origins_may_call_with_a_token_and_never_with_a_cookie(control: ControlRig) -> None:
    asks = {"origin": "http://localhost:3000", "access-control-request-headers": "authorization, idempotency-key"}
    async with control.client(**asks) as http:
        asked = await http.options("/v1/tenants")
        assert asked.status_code == 204
        assert "PATCH" in asked.headers["access-control-allow-methods"]
        assert "idempotency-key" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        answer = await http.get("/v1")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "ratelimit" in answer.headers["access-control-expose-headers"]
    async with control.client(origin="https://elsewhere.example") as http:
        refused = await http.get("/v1")
        assert refused.status_code == 403
        assert refused.json()["type"].endswith("#origin-not-allowed")
    async with control.client(host="elsewhere.example") as http:
        assert (await http.get("/v1")).json()["type"].endswith("#misdirected")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"slug": "a", "slug": "b"}', {}, 400),
        (b"not json", {}, 400),
        (b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", {}, 400),
        (b'{"a": "' + b"x" * 65_536 + b'"}', {}, 413),
        (b'{"a": [' + b"1, " * 2_000 + b"1]}", {}, 400),
        (b"slug=a", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"[]", {}, 422),
        (b"", {}, 422),
    ],
)
async def test_a_body_that_cannot_be_is_a_problem(
    control: ControlRig, content: bytes, headers: dict[str, str], status: int
) -> None:
    async with control.client() as http:
        sent = {"content-type": "application/json", **headers}
        answer = await http.post("/v1/signup", content=content, headers=sent)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_an_answer_is_a_line_of_its_own_in_a_terminal(control: ControlRig) -> None:
    async with control.client() as http:
        for path in ("/v1", "/v1/me", "/v1/nothing", "/openapi.json"):
            answer = await http.get(path)
            assert answer.text.endswith("}\n"), path
            assert answer.headers["content-length"] == str(len(answer.content)), path
        head = await http.head("/v1")
        assert (head.headers["content-length"], head.content) == (str(len((await http.get("/v1")).content)), b"")


async def test_the_description_is_made_before_anybody_asks_for_it(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: object, **__: object) -> None:
        raise AssertionError("it was made on a request")

    monkeypatch.setattr("fastapi.applications.get_openapi", made)
    assert (await control.call("GET", "/openapi.json")).status_code == 200
    assert (await control.call("GET", "/docs")).status_code == 200


async def test_of_many_fields_that_nobody_knows_a_few_are_told(control: ControlRig) -> None:
    answer = await control.call("POST", "/v1/signup", json={f"unknown{n}": n for n in range(1_500)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20


async def test_the_body_of_somebody_unknown_is_not_looked_at_where_one_must_be_known(control: ControlRig) -> None:
    for method, path in (("PUT", "/v1/me/password"), ("POST", "/v1/tenants/acme/keys"), ("DELETE", "/v1/sessions")):
        async with control.client() as http:
            sent = {"content-type": "application/json"}
            refused = await http.request(method, path, content=b"not json", headers=sent)
            assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
            wide = await http.request(method, path, content=b"x" * 200_000, headers=sent)
            assert wide.status_code == 401
            assert (await http.get("/v1")).status_code == 200


async def test_a_pod_may_serve_without_a_control_plane(control: ControlRig) -> None:
    rig = ControlRig(control.platform, await control.platform.api(control=False))
    answer = await rig.call("GET", "/v1")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert (await rig.call("GET", "/livez")).status_code == 200


async def test_a_request_that_the_framework_cannot_read_is_a_bad_one(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise HTTPException(400, "There was an error parsing the body")

    monkeypatch.setattr("trunkline.tenants.accounts.Accounts.memberships", fail)
    _, person = await control.sign_up()
    answer = await control.call("GET", "/v1/tenants", person.token)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_what_goes_wrong_inside_is_a_problem_without_details(
    control: ControlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr("trunkline.tenants.accounts.Accounts.memberships", fail)
    _, person = await control.sign_up()
    with structlog.testing.capture_logs() as logged:
        answer = await control.call("GET", "/v1/tenants", person.token)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "hunter2" not in answer.text
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["request failed"]
    async with control.client() as http:
        assert "trunkline_internal_errors_total 1.0" in (await http.get("/metrics")).text
