from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import structlog

from trunkline import logs
from trunkline.settings import Settings

CANARY = "tlk_eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl-_x"


def settings(**overrides: Any) -> Settings:
    return Settings(environment="dev", **overrides)


@pytest.fixture
def lines() -> Callable[..., Callable[[], list[dict[str, Any]]]]:
    def start(**overrides: Any) -> Callable[[], list[dict[str, Any]]]:
        stream = io.StringIO()
        logs.configure(settings(log_format="json", **overrides), "api", pod="pod-1", stream=stream)
        return lambda: [orjson.loads(line) for line in stream.getvalue().splitlines()]

    return start


def test_a_line_off_a_terminal_is_json_with_time_level_process_and_pod(lines):
    written = lines()
    structlog.get_logger().info("started", port=8000)
    (line,) = written()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "started", "level": "info", "process": "api", "pod": "pod-1", "port": 8000}


def test_ids_bound_to_the_context_are_on_the_line(lines):
    written = lines()
    with structlog.contextvars.bound_contextvars(tenant="acme", session="s1"):
        structlog.get_logger().warning("slow reader")
    assert written()[0]["tenant"] == "acme"
    assert written()[0]["session"] == "s1"


def test_a_terminal_gets_readable_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    logs.configure(settings(), "worker", stream=stream)
    structlog.get_logger().info("ready", lanes=16)
    assert "ready" in stream.getvalue()
    assert "lanes" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_libraries_write_through_the_same_renderer(lines):
    written = lines()
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request from %s", "127.0.0.1")
    (line,) = written()
    assert line["event"] == "Invalid HTTP request from 127.0.0.1"
    assert (line["logger"], line["level"], line["process"]) == ("uvicorn.error", "warning", "api")


def test_a_library_line_of_an_unknown_level_is_written(lines):
    written = lines()
    logging.getLogger("alembic.runtime").log(25, "between")
    assert written()[0]["level"] == "info"


def test_a_library_line_that_cannot_be_formatted_stops_nobody(lines, capsys):
    lines()
    logging.getLogger("alembic").warning("%d", "not a number")
    assert "not a number" in capsys.readouterr().err


def test_requests_of_http_clients_are_not_logged(lines):
    written = lines(log_level="debug")
    logging.getLogger("httpx2").info("HTTP Request: GET http://127.0.0.1/t/a/sse?ticket=abc")
    logging.getLogger("mcp.client").info("chatter")
    assert written() == []


def test_station_lines_are_off_until_the_level_is_debug(lines):
    written = lines(log_level="info")
    assert logs.stations.on is False
    logs.stations.log("accept", call="c1")
    assert written() == []


def test_station_lines_have_the_station_as_event(lines):
    written = lines(log_level="debug")
    assert logs.stations.on is True
    logs.stations.log("claim", call="c1", tenant="acme", session="s1")
    (line,) = written()
    assert (line["event"], line["level"], line["call"]) == ("claim", "debug", "c1")


@pytest.mark.parametrize(
    "value",
    [
        CANARY,
        f"refused {CANARY}, sorry",
        {"headers": [{"x": CANARY}]},
        [(b"authorization", f"Bearer {CANARY}".encode())],
        ValueError(f"bad key {CANARY}"),
        f"GET /t/acme/sse?key={CANARY}",
    ],
)
def test_no_key_survives_in_any_value(lines, value):
    written = lines()
    structlog.get_logger().info("refused", value=value)
    assert "eyJ" not in str(written()[0])
    assert "[redacted]" in str(written()[0])


def test_no_key_survives_in_an_event_a_field_name_or_a_traceback(lines):
    written = lines()
    try:
        raise RuntimeError(CANARY)
    except RuntimeError:
        structlog.get_logger().exception(f"failed with {CANARY}", **{CANARY: 1})
    logging.getLogger("uvicorn").error("header %s", CANARY)
    assert "eyJ" not in str(written())
    assert "RuntimeError" in written()[0]["exception"]


def test_no_key_survives_on_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    logs.configure(settings(), "api", stream=stream)

    def verify(token: str) -> None:
        raise RuntimeError("no such key")

    try:
        verify(CANARY)
    except RuntimeError:
        structlog.get_logger().exception("refused", key=CANARY)
    assert "eyJ" not in stream.getvalue()
    assert "no such key" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "{'authorization': 'Basic [redacted]'}"),
        ("sent bearer 0123456789abcdef", "sent bearer [redacted]"),
        ("/t/a/sse?ticket=Zm9v-bar&x=1", "/t/a/sse?ticket=[redacted]&x=1"),
        ("postgresql://app:hunter2@db:5432/x", "postgresql://app:[redacted]@db:5432/x"),
        ("the authorization header is missing", "the authorization header is missing"),
        ("http://127.0.0.1:8000/t/demo/sse", "http://127.0.0.1:8000/t/demo/sse"),
    ],
)
def test_secrets_are_taken_out_and_words_left_in(text, kept):
    assert logs.redact(text) == kept


def test_values_that_json_does_not_know_are_written_all_the_same(lines):
    written = lines()
    structlog.get_logger().info("odd", surrogate="\ud800", big=2**70, raw=b"\xff", keys={1: object})
    assert written()[0]["event"] == "odd"


@pytest.mark.parametrize("value", [None, 5, True, "", [], "Basic dXNlcjpwYXNz"])
def test_a_redacted_line_is_still_json(lines, value):
    written = lines()
    structlog.get_logger().info("headers", authorization=value, next="n")
    assert "dXNl" not in str(written()[0])


@pytest.mark.parametrize("kind", ["tls_", "tli_", "tlc_"])
def test_tokens_invitations_and_codes_are_taken_out_wherever_they_stand(kind: str) -> None:
    secret = kind + "Ab1-" * 10 + "xyz"
    assert logs.redact(f"GET /invite#{secret} 404") == f"GET /invite#{kind}[redacted] 404"
    assert logs.redact("tls_version=1.3") == "tls_version=1.3"
