from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from tests.streamable import META, MODERN

import trunkline.api
from trunkline.api.heads import Head
from trunkline.api.http import Request
from trunkline.api.inbound import begins_with_an_id, check_request, context_of, is_stateless, sdk, status_of
from trunkline.api.messages import Message
from trunkline.errors import HeaderMismatch, InvalidMessage, InvalidParams, UnsupportedVersion

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from trunkline.api.connection import Protocol


def http(*headers: tuple[str, str]) -> Request:
    named = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"method": "POST", "raw_path": b"/", "query_string": b"", "http_version": "1.1", "headers": named}
    return Request(Head(cast("HTTPScope", scope)), cast("Protocol", None), cast("RequestResponseCycle", None))


def named(**changes: str) -> list[tuple[str, str]]:
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "add", **changes}
    return [(name, value) for name, value in headers.items() if value]


CALL = Message("request", b"1", "tools/call", {"name": "add", "_meta": META})


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_versions_that_have_a_handshake_are_of_the_era_with_sessions(version: str) -> None:
    assert not is_stateless(http(("mcp-protocol-version", version)).head)


def test_any_other_version_is_of_the_stateless_era_and_none_is_not() -> None:
    assert not is_stateless(http().head)
    for version in (MODERN, "v999", "2025-13-01", "\u00e9"):
        assert is_stateless(http(("mcp-protocol-version", version)).head)


def test_only_clients_that_know_of_it_are_given_an_id_at_first() -> None:
    known = {version: begins_with_an_id(version) for version in ("2025-06-18", "2025-11-25", MODERN, "", "zzz")}
    assert known == {"2025-06-18": False, "2025-11-25": True, MODERN: True, "": False, "zzz": False}


def test_a_request_that_says_the_same_in_head_and_body_passes() -> None:
    check_request(http(*named()), CALL)
    check_request(http(*named(**{"mcp-name": "=?base64?YWRk?="})), CALL)


@pytest.mark.parametrize(
    ("headers", "message", "error"),
    [
        (named(**{"mcp-method": ""}), CALL, HeaderMismatch),
        (named(**{"mcp-name": "sub"}), CALL, HeaderMismatch),
        ([*named(), ("mcp-name", "add")], CALL, HeaderMismatch),
        ([*named(), ("mcp-param-x", "1"), ("mcp-param-x", "1")], CALL, HeaderMismatch),
        (named(), CALL._replace(params={"name": "add"}), InvalidParams),
        (named(), CALL._replace(params={"name": "add", "_meta": {}}), InvalidParams),
        (named(**{"mcp-protocol-version": "v999"}), CALL, HeaderMismatch),
        (
            named(**{"mcp-protocol-version": "v999"}),
            CALL._replace(
                params={"name": "add", "_meta": {**META, "io.modelcontextprotocol/protocolVersion": "v999"}}
            ),
            UnsupportedVersion,
        ),
    ],
)
def test_one_that_does_not_is_refused_with_the_code_for_it(
    headers: list[tuple[str, str]], message: Message, error: type[InvalidMessage]
) -> None:
    with pytest.raises(error) as refused:
        check_request(http(*headers), message)
    assert refused.value.status == 400
    if error is UnsupportedVersion:
        assert refused.value.data == {"supported": [MODERN], "requested": "v999"}


def test_a_header_that_comes_twice_and_means_nothing_here_is_no_harm() -> None:
    check_request(http(*named(), ("x-forwarded-for", "a"), ("x-forwarded-for", "b")), CALL)


def test_the_worker_is_told_of_headers_that_mirror_arguments_and_of_no_others() -> None:
    assert context_of(http(*named())) == b""
    assert context_of(http(*named(), ("mcp-param-region", "eu"))) == b'{"params":{"mcp-param-region":"eu"}}'


def test_answers_have_the_status_of_their_error() -> None:
    codes = {None: 200, -32601: 404, -32602: 400, -32020: 400, -32021: 400, -32022: 400, -32603: 200, -32001: 200}
    assert {code: status_of(code) for code in codes} == codes


def test_the_sdk_is_in_an_api_process_with_its_pure_functions_alone() -> None:
    source = Path(trunkline.api.__file__).parent
    importing = {}
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if any(name.partition(".")[0] == "mcp" for name in (*names, module)):
                importing[file.name] = (module, *names)
    assert importing == {"inbound.py": ("mcp.shared",)}
    assert sdk.classify_inbound_request.__code__.co_filename.endswith("mcp/shared/inbound.py")
    found = subprocess.run(
        [sys.executable, "-c", "import sys, trunkline.api.run; print('mcp' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False", "the whole package would cost each pod its time and memory"
