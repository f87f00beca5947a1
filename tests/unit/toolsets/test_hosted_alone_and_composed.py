"""What a hosted server's clients see is the same whether its toolset is alone or beside another."""

from __future__ import annotations

import base64
import threading

import pytest
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.shared.exceptions import MCPError
from tests.unit.toolsets.client import Client

# The author of the library logs with ctx.info, which the SDK has deprecated for 2026-07-28.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

ODYSSEY = "9780140449136"


async def test_a_tool_answers_with_structured_output(either: Client) -> None:
    result = await either.call("search", query="odyssey")
    assert [book["title"] for book in result["structuredContent"]["result"]] == ["The Odyssey"]


async def test_a_tool_answers_with_an_image(either: Client) -> None:
    (image,) = (await either.call("cover", isbn=ODYSSEY))["content"]
    assert image["type"] == "image"
    assert image["mimeType"] == "image/png"
    assert base64.b64decode(image["data"]).startswith(b"\x89PNG")


async def test_a_tool_reports_progress_and_logs(either: Client) -> None:
    await either.call("take_stock")
    progress = [body for kind, body in either.dispatch.sent if kind == "progress"]
    assert [(done, total) for done, total, _ in progress] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [body["data"] for kind, body in either.dispatch.sent if kind == "notifications/message"] == [
        "counted 4 books"
    ]


async def test_tools_share_the_state_of_the_lifespan(either: Client) -> None:
    assert (await either.call("lend", isbn=ODYSSEY, reader="Ann"))["structuredContent"]["lent_to"] == "Ann"
    again = await either.call("lend", isbn=ODYSSEY, reader="Bob")
    assert again["isError"]
    assert "is lent to Ann" in again["content"][0]["text"]
    assert await either.text("bring_back", isbn=ODYSSEY) == "true"


async def test_a_blocking_tool_runs_in_a_thread_and_sees_the_access_token(either: Client) -> None:
    reset = auth_context_var.set(AuthenticatedUser(AccessToken(token="t", client_id="key_7", scopes=["read"])))
    try:
        card = (await either.call("reader_card"))["structuredContent"]
    finally:
        auth_context_var.reset(reset)
    assert card["reader"] == "key_7"
    assert card["scopes"] == ["read"]
    assert card["thread"] != threading.current_thread().name


async def test_a_mistake_in_a_tool_is_a_tool_error_without_its_secrets(either: Client) -> None:
    result = await either.call("burn", isbn=ODYSSEY)
    assert result["isError"]
    assert "hunter2" not in str(result)


async def test_bad_arguments_are_a_tool_error(either: Client) -> None:
    assert (await either.call("lend", isbn=ODYSSEY))["isError"]


async def test_malformed_parameters_are_refused_before_any_handler(either: Client) -> None:
    with pytest.raises(ValueError, match="name"):
        await either.request("tools/call", {"arguments": {}})


async def test_resources_are_read_by_uri_and_by_template(either: Client) -> None:
    (hours,) = (await either.request("resources/read", {"uri": "library://hours"}))["contents"]
    assert hours["text"] == "Monday to Friday, 9 to 18"
    (logo,) = (await either.request("resources/read", {"uri": "library://logo"}))["contents"]
    assert base64.b64decode(logo["blob"]).startswith(b"\x89PNG")
    (book,) = (await either.request("resources/read", {"uri": f"library://books/{ODYSSEY}"}))["contents"]
    assert "Homer" in book["text"]


async def test_an_unknown_resource_is_refused(either: Client) -> None:
    with pytest.raises(MCPError) as refusal:
        await either.request("resources/read", {"uri": "nowhere://x"})
    assert refusal.value.error.code == -32602
    assert "nowhere://x" in refusal.value.error.message


async def test_templates_are_listed(either: Client) -> None:
    listed = await either.request("resources/templates/list")
    assert [template["uriTemplate"] for template in listed["resourceTemplates"]] == ["library://books/{isbn}"]


async def test_a_prompt_is_rendered(either: Client) -> None:
    result = await either.request("prompts/get", {"name": "recommend", "arguments": {"reader": "Ann"}})
    assert result["messages"][0]["content"]["text"] == "Recommend a novel to Ann."


async def test_arguments_of_prompts_and_templates_are_completed(either: Client) -> None:
    genre = {"ref": {"type": "ref/prompt", "name": "recommend"}, "argument": {"name": "genre", "value": "n"}}
    assert (await either.request("completion/complete", genre))["completion"]["values"] == ["novel"]
    isbn = {
        "ref": {"type": "ref/resource", "uri": "library://books/{isbn}"},
        "argument": {"name": "isbn", "value": "97802"},
    }
    assert (await either.request("completion/complete", isbn))["completion"]["values"] == ["9780261103344"]


async def test_ping_is_answered(either: Client) -> None:
    assert await either.request("ping") == {}


async def test_an_unknown_method_is_not_found(either: Client) -> None:
    with pytest.raises(MCPError) as refusal:
        await either.request("library/burn")
    assert refusal.value.error.code == -32601
