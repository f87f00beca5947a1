"""Requests to the address of streamable HTTP, in sessions and stateless, and what can be wrong with them alone."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, NAME_BEARING_METHODS, encode_header_value

from faults.fuzz_bodies import LARGEST_BODY, OK, bodies, good_bodies, messages
from faults.fuzz_calls import badly_framed, chunked, content_type, crowded, expects, other_key, public, reader
from faults.fuzz_case import Case, Stage
from faults.fuzz_twists import Twist, choose

_SESSIONS, _STATELESS = "2025-11-25", "2026-07-28"
_BATCHES = (None, "2025-03-26")
"""The version with batches, and what stands for it."""
_META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": _STATELESS,
    "io.modelcontextprotocol/clientInfo": {"name": "faults", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_BOTH = "application/json, text/event-stream"


# In sessions.


def post_in_session(draw: st.DrawFn, case: Case, *, good: bool) -> tuple[Twist, ...]:
    """A message to a session; what may be twisted about it."""
    case.route, case.era = "mcp", "http"
    case.body = draw(good_bodies if good else bodies)
    version = draw(st.sampled_from([_SESSIONS, _SESSIONS, _SESSIONS, "2025-06-18", "2024-11-05", *_BATCHES]))
    case.set("mcp-protocol-version", version)
    case.carry(case.world.session)
    _post(case)
    verdict = case.verdict()
    case.success = 200 if verdict.request is not None else OK
    if version in _BATCHES and case.body.lstrip(b" \t\r\n").startswith(b"["):
        case.success = 200
        case.wrong(Stage.REST, 200, 202, 400, 413)
    else:
        case.wrong_body()
    if verdict.method == "initialize":  # in a session that has been initialized: an error, or another session
        case.wrong(Stage.REST, 400, case.success)
    return (session, other_key, reader, crowded, public, content_type, chunked, badly_framed, expects, accept, twice)


def get_stream(draw: st.DrawFn, case: Case) -> tuple[Twist, ...]:
    """The stream of a session, or of a POST."""
    case.route, case.era, case.method, case.success, case.broken = "mcp", "http", "GET", 200, True
    case.set("mcp-protocol-version", draw(st.sampled_from([_SESSIONS, "2025-06-18", None])))
    case.set("accept", "text/event-stream")
    case.carry(case.world.spare)
    return (session, accept_stream, last_event, twice)


def delete(draw: st.DrawFn, case: Case) -> tuple[Twist, ...]:
    """The end of a session that there is not."""
    case.route, case.era, case.method, case.success = "mcp", "http", "DELETE", 204
    case.set("mcp-protocol-version", _SESSIONS)
    session(draw, case)
    return (twice,)


def session(draw: st.DrawFn, case: Case) -> None:
    good, world = case.world.session, case.world
    value, right = choose(
        draw,
        (None, (400,)),
        ("", (400,)),
        ("0" * 32, (404,)),
        (good[:-1], (404,)),
        (good + "0", (404,)),
        (f"{good}.{'0' * 32}", (404,)),
        (f"{good}, {good}", (404,)),
        (world.reader_session, (404,)),
        (world.foreign_session, (404,)),
        ("\xe9" * 32, (404,)),
        ("*" * 32, (404,)),
        (f"{good}:out", (404,)),
    )
    case.carry(value)
    opens = value in (None, "") and case.body is not None and case.verdict().method == "initialize"
    case.wrong(Stage.REST, *right, *((case.success,) if opens else ()))


def accept(draw: st.DrawFn, case: Case) -> None:
    value, json_, events = choose(
        draw,
        ("application/json", True, False),
        ("text/event-stream", False, True),
        ("*/*", True, True),
        ("", True, True),
        (None, True, True),
        ("text/html", False, False),
        ("application/json;q=0, text/event-stream;q=0", False, False),
        ("APPLICATION/*", True, False),
    )
    case.set("accept", value)
    if not (json_ or (events and case.era == "http")):
        case.wrong(Stage.REST, 406)
    elif not events and case.verdict().method == "subscriptions/listen":
        _wrong_request(case, 400, 406)


def accept_stream(draw: st.DrawFn, case: Case) -> None:
    value, right = choose(
        draw, ("*/*", ()), ("", ()), ("application/json", (406,)), ("text/html", (406,)), ("text/*;q=0.1", ())
    )
    case.set("accept", value)
    if right:
        case.wrong(Stage.REST, *right)


def last_event(draw: st.DrawFn, case: Case) -> None:
    spare = case.world.spare
    value, right = choose(
        draw,
        (f"{spare}.0", ()),
        (f"{spare}.00", (200, 404)),
        (f"{spare}.7", (404,)),
        (f"{spare}.{'0' * 32}.0", (404,)),
        (f"{spare}.{'0' * 32}", (404,)),
        (f"{case.world.session}.0", (404,)),
        (f"{case.world.foreign_session}.0", (404,)),
        (f"{spare}.lost", (404,)),
        (spare, (404,)),
        ("nonsense", (404,)),
        ("\xff.\xff", (404,)),
        (f"{spare}.{'9' * 30}", (404,)),
        (f"{spare}.-1", (404,)),
    )
    case.set("last-event-id", value)
    if right:
        case.wrong(Stage.REST, *right)


def twice(draw: st.DrawFn, case: Case) -> None:
    """RFC 9110, section 5.3: none of these may come in several lines."""
    name = "mcp-session-id" if case.era == "http" else draw(st.sampled_from(["mcp-method", "mcp-protocol-version"]))
    found = [value for header, value in case.headers if header == name.encode()]
    case.add(name, found[0] if found else "x")
    if not found:
        case.add(name, "x")
    if case.era == "http":
        case.wrong(Stage.FRONT, 400)
    else:
        _wrong_request(case, 400)


# Stateless.


def post_stateless(draw: st.DrawFn, case: Case, *, good: bool) -> tuple[Twist, ...]:
    """A request that says all of itself; what may be twisted about it."""
    case.route, case.era = "mcp", "modern"
    case.set("mcp-protocol-version", _STATELESS)
    if good:
        message = draw(messages)
        message["method"] = draw(st.sampled_from([message["method"], "server/discover", "subscriptions/listen"]))
        message["params"] = {**message.get("params", {}), "_meta": _META}
        if message["method"] == "subscriptions/listen" and draw(st.booleans()):
            message["params"]["notifications"] = {"toolsListChanged": True}
        case.body = json.dumps(message).encode()
        _mirror(case, message["method"], message["params"])
    else:
        case.body = draw(bodies)
    _post(case)
    _judge(case)
    twists: tuple[Twist, ...] = (reader, crowded, public, content_type, chunked, badly_framed, expects, accept, twice)
    return (*twists, mismatch, meta, unsupported, param_twice) if good else twists


def _mirror(case: Case, method: str, params: dict[str, Any]) -> None:
    if method.isascii() and method.isprintable():
        case.set("mcp-method", method)
    name = params.get(NAME_BEARING_METHODS.get(method, ""))
    if isinstance(name, str):
        case.set("mcp-name", encode_header_value(name))


def _judge(case: Case) -> None:
    verdict = case.verdict()
    if verdict.method == "notifications/cancelled" and verdict.request is None:  # means nothing here
        case.wrong(Stage.REST, OK, 400)
    elif OK not in verdict.right or len(case.body or b"") > LARGEST_BODY:
        case.wrong_body()
    elif verdict.request is not None:  # which method wants which params is the server's to know
        case.success = 200
        case.wrong(Stage.REST, 200, 400, 404)
    elif verdict.method:
        case.success = OK
        case.wrong_body()
    else:  # there is nothing that it could answer
        case.wrong(Stage.REST, 400)


def mismatch(draw: st.DrawFn, case: Case) -> None:
    """Say something else in a header than in the body."""
    name = draw(st.sampled_from(["mcp-method", "mcp-name", "mcp-protocol-version"]))
    if name == "mcp-protocol-version":
        case.set(name, "2027-01-01")
        case.wrong(Stage.REST, 400)
        return
    case.set(name, draw(st.sampled_from([None, "no/such/thing", "=?base64?x?=", b"\xff"])))
    if name == "mcp-method" or _named(case) is not None:
        _wrong_request(case, 400)


def _named(case: Case) -> str | None:
    """What Mcp-Name must say."""
    verdict = case.verdict()
    params = json.loads(case.body or b"{}").get("params", {})
    name = params.get(NAME_BEARING_METHODS.get(verdict.method, ""))
    return name if isinstance(name, str) else None


def meta(draw: st.DrawFn, case: Case) -> None:
    """Leave something out of what each request says of its client, or say it wrongly."""
    message = json.loads(case.body or b"{}")
    key = draw(st.sampled_from([*_META, "all"]))
    if key == "all":
        message["params"]["_meta"] = draw(st.sampled_from([None, {}, [], "x"]))
    else:
        message["params"]["_meta"] = {**_META, key: draw(st.sampled_from([None, 7, "x", []]))}
    case.body = json.dumps(message).encode()
    case.set("content-length", str(len(case.body)))
    if key == "all" or key.endswith("protocolVersion"):
        _wrong_request(case, 400)


def unsupported(_: st.DrawFn, case: Case) -> None:
    version = "2027-01-01"
    case.set("mcp-protocol-version", version)
    case.body = (case.body or b"").replace(_STATELESS.encode(), version.encode())
    case.wrong(Stage.REST, 400)


def param_twice(_: st.DrawFn, case: Case) -> None:
    case.add("mcp-param-x", "1")
    case.add("mcp-param-x", "1")
    _wrong_request(case, 400)


def _wrong_request(case: Case, *statuses: int) -> None:
    """Of a request; what a notification says besides is of no interest."""
    if case.verdict().request is not None:
        case.wrong(Stage.REST, *statuses)


def no_such_method(draw: st.DrawFn, case: Case) -> tuple[Twist, ...]:
    """There is nothing to be got or deleted without a session."""
    case.route, case.era, case.method = "mcp", "modern", draw(st.sampled_from(["GET", "DELETE"]))
    version = draw(st.sampled_from([_STATELESS, "2027-01-01", "x", ""]))
    case.set("mcp-protocol-version", version)
    case.wrong(Stage.REST, 405 if version == _STATELESS else 400)
    return ()


def _post(case: Case) -> None:
    case.add("accept", _BOTH)
    case.add("content-type", "application/json")
    case.add("content-length", str(len(case.body or b"")))


# Answers.


def wrong_answer(case: Case, status: int, answer: object) -> str:
    """What is wrong with the document that a POST was answered with; empty where nothing is."""
    if isinstance(answer, list):
        return "" if (case.body or b"").lstrip(b" \t\r\n").startswith(b"[") else "a list for one message"
    if not isinstance(answer, dict) or answer.get("jsonrpc") != "2.0" or ("result" in answer) == ("error" in answer):
        return "no JSON-RPC response"
    request = case.verdict().request
    if status == 200 and request is not None and answer.get("id") != json.loads(request):
        return f"an answer to {answer.get('id')!r}, where {request} asked"
    if case.era == "modern" and "error" in answer:
        told = ERROR_CODE_HTTP_STATUS.get(answer["error"]["code"], 200)
        if status in (200, 400) and told != status:
            return f"{status} with the code {answer['error']['code']}"
    return ""
