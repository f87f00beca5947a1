"""Streamable HTTP with sessions: any pod takes any request, and each message comes once, on the stream it belongs to."""

from __future__ import annotations

import pytest
from tests.journey.conftest import Platform
from tests.sse import text_of
from tests.streamable import LATEST, client, request

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

VERSIONS = ["2025-03-26", "2025-06-18", LATEST]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_opens_at_one_pod_and_is_used_at_others(platform: Platform, version: str) -> None:
    first, second = await platform.api(), await platform.api()
    await platform.worker()
    async with client(first, key=platform.key) as one:
        answer = await one.initialize(version)
        assert answer["result"]["protocolVersion"] == version
        assert len(one.session) == 32
        for base in (second, first):
            assert text_of(await one.call("echo", base, text=base)) == base
            tools = (await one.ask(request(2, "tools/list"), base))["result"]["tools"]
            assert "echo" in {tool["name"] for tool in tools}
        assert (await one.send("DELETE", base=second)).status_code == 204
        for base in (first, second):
            assert (await one.send("POST", request(3, "ping"), base)).status_code == 404
