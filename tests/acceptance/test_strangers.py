"""From nothing to a first tool call, with real processes: what signing up answers is all that a client needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.acceptance.pods import TLS, Deployment
from tests.control import PASSWORD

from trunkline.dev.process import free_port
from trunkline.settings import Settings

A_MINUTE = 60.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A deployment that anybody may sign up to, reached where it says that it is."""
    return settings.model_copy(update={"signup": "open", "public_url": f"http://127.0.0.1:{free_port()}"})


async def test_a_stranger_signs_up_calls_a_tool_and_invites_a_colleague_within_a_minute(
    deployment: Deployment, tmp_path: Path
) -> None:
    began = time.monotonic()
    port = int(deployment.settings.public_url.rpartition(":")[2])
    await deployment.api(port)
    await deployment.worker()
    wanted = {"slug": "acme", "name": "Ada", "email": "ada@example.com", "password": PASSWORD}
    async with httpx2.AsyncClient(base_url=deployment.settings.public_url, verify=TLS, timeout=30) as http:
        answer = await http.post("/v1/signup", json=wanted)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        key = made["key"]["secret"]
        assert await first_call(made["mcp_url"], key) == "8"
        assert snippet("Python", made["snippets"], key) == "8"
        if shutil.which("curl"):
            assert '"text":"8"' in snippet("curl", made["snippets"], key).replace(" ", "")
        # Signing up has signed in by cookie, and who changes something by cookie proves to have seen an answer.
        csrf = (await http.get("/v1/sessions/current")).json()["csrf_token"]
        invited = await http.post(
            "/v1/tenants/acme/invitations",
            json={"email": "grace@example.com", "role": "developer"},
            headers={"x-csrf-token": csrf},
        )
        assert invited.status_code == 201, invited.text
        secret = invited.json()["link"].partition("#")[2]
    async with httpx2.AsyncClient(base_url=deployment.settings.public_url, verify=TLS, timeout=30) as http:
        body = {"secret": secret, "name": "Grace", "password": PASSWORD}
        joined = await http.post("/v1/invitations/accept", json=body)
        assert joined.json()["memberships"] == [{"tenant": "acme", "role": "developer"}]
    assert time.monotonic() - began < A_MINUTE
    logs = "".join(line for pod in deployment.pods for line in pod.lines())
    assert all(each not in logs for each in (PASSWORD, key, secret))


async def first_call(url: str, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, verify=TLS) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        return (await client.call_tool("add", {"a": 3, "b": 5})).content[0].text


def snippet(client: str, snippets: dict[str, str], key: str) -> str:
    """What a snippet prints that is run as it is."""
    text = next(text for title, text in snippets.items() if title.startswith(client))
    command = [sys.executable, "-c", text] if client == "Python" else ["sh", "-c", f"{text} --silent"]
    env = os.environ | {"TRUNKLINE_API_KEY": key}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()
