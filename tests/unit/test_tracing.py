"""What is traced, and what a client's word for its trace is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from trunkline.settings import load_settings
from trunkline.tracing import Tracing, carried, parted

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = CLIENT[:-2] + "00"


Make = Callable[..., Tracing]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """What was exported; all of it once the traces are closed."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Iterator[Make]:
    made: list[Tracing] = []

    def make(ratio: float = 1.0, *, clients: bool = False) -> Tracing:
        settings = load_settings(environment="dev", trace_ratio=ratio, trace_clients=clients)
        made.append(Tracing(settings, "api", "pod", spans))
        return made[-1]

    yield make
    for each in made:
        each.close()


def accept(of: Tracing, headers: dict[str, str] | None = None, **params: Any) -> str:
    """The place in the trace that goes to the worker; empty where the call is not traced."""
    given, began = headers or {}, time.perf_counter()
    accepting = of.accepting(lambda name: given.get(name.decode(), ""), "tools/call", params, "acme", began)
    if accepting is None:
        return ""
    accepting.accepted("c1")
    return parted(accepting.carry(b"{}"))[1]


def test_without_a_collector_there_are_no_traces() -> None:
    assert Tracing.of(load_settings(environment="dev"), "api", "pod") is None


def test_a_message_carries_its_place_in_a_trace_and_is_itself_without_one() -> None:
    assert parted(carried(b'{"id": 1}', CLIENT)) == (b'{"id": 1}', CLIENT)
    assert parted(b'{"id": 1}') == (b'{"id": 1}', "")


def test_a_trace_goes_on_from_the_clients_header(tracing: Make) -> None:
    version, trace, span, flags = accept(tracing(), {"traceparent": CLIENT}).split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != "b7ad6b7169203331"


def test_or_from_its_message_and_the_header_comes_first(tracing: Make) -> None:
    other = CLIENT.replace("0af7", "1af7")
    assert accept(tracing(), _meta={"traceparent": CLIENT}).split("-")[1].startswith("0af7")
    found = accept(tracing(), {"traceparent": other}, _meta={"traceparent": CLIENT})
    assert found.split("-")[1].startswith("1af7")


def test_what_other_vendors_say_of_the_trace_goes_on_to_what_the_tool_asks(tracing: Make) -> None:
    of, state = tracing(), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    place = accept(of, {"traceparent": CLIENT, "tracestate": state})
    with of.executing(place, 0.0, {}):
        carried_on: dict[str, str] = {}
        inject(carried_on)
    assert carried_on["tracestate"] == state
    assert "tracestate" not in accept(of, {"traceparent": CLIENT})


@pytest.mark.parametrize("state", ["nonsense", "a=1\nb=2", "a=" + "x" * 600, "=", ","])
def test_what_is_no_tracestate_goes_nowhere(tracing: Make, state: str) -> None:
    place = accept(tracing(), {"traceparent": CLIENT, "tracestate": state})
    assert place.split("-")[1] == TRACE
    assert "\n" not in place
    assert " " not in place


@pytest.mark.parametrize(
    "said",
    [
        "", "nonsense", CLIENT.upper(), CLIENT + "-more", "ff" + CLIENT[2:], CLIENT.replace(TRACE, "0" * 32),
        CLIENT.replace("b7ad6b7169203331", "0" * 16), CLIENT[:-1], "\n" + CLIENT,
    ],
)  # fmt: skip
def test_what_is_no_traceparent_begins_a_trace_of_its_own(tracing: Make, said: str) -> None:
    assert accept(tracing(), {"traceparent": said}).split("-")[1] not in {TRACE, "0" * 32}


@pytest.mark.parametrize("meta", [None, 7, [], {"traceparent": 7}, {"traceparent": {"a": 1}}])
def test_a_message_may_say_anything_in_its_place(tracing: Make, meta: object) -> None:
    assert accept(tracing(), _meta=meta)


def test_the_share_of_calls_decides_and_not_what_clients_say(tracing: Make) -> None:
    assert accept(tracing(0.0), {"traceparent": CLIENT}) == ""
    assert accept(tracing(1.0), {"traceparent": UNSAMPLED}) != ""


def test_unless_clients_are_trusted_with_it(tracing: Make) -> None:
    assert accept(tracing(0.0, clients=True), {"traceparent": CLIENT}) != ""
    assert accept(tracing(0.0, clients=True), {"traceparent": UNSAMPLED}) == ""
    assert accept(tracing(0.0, clients=True)) == ""


def test_about_the_share_is_traced(tracing: Make) -> None:
    tenth = tracing(0.1)
    traced = sum(bool(accept(tenth)) for _ in range(2_000))
    assert 100 < traced < 300


def test_what_is_awaited_is_bounded(tracing: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.tracing._MOST_REMEMBERED", 3)
    of = tracing()
    for number in range(5):
        accepting = of.accepting(lambda _: "", "ping", {}, "acme", time.perf_counter())
        assert accepting is not None
        accepting.accepted(f"c{number}")
    assert list(of._awaited) == [b"c2", b"c3", b"c4"]
    of.delivered(b"c3", time.time_ns())
    of.delivered(b"c3", time.time_ns())
    assert list(of._awaited) == [b"c2", b"c4"]


def test_a_refused_call_is_a_span_that_failed_with_the_reason(tracing: Make, spans: InMemorySpanExporter) -> None:
    of = tracing()
    accepting = of.accepting(lambda _: "", "tools/call", {"name": "add"}, "acme", time.perf_counter())
    assert accepting is not None
    accepting.refused("rate")
    of.close()
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"accept", "enqueue"}
    attributes = dict(found["accept"].attributes or {})
    assert attributes == {
        "mcp.method.name": "tools/call", "trunkline.tenant": "acme", "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "add", "error.type": "rate",
    }  # fmt: skip


def test_what_a_tool_traces_is_part_of_its_call_and_nothing_outside_of_one(
    tracing: Make, spans: InMemorySpanExporter
) -> None:
    of = tracing()
    tools = of._tools.get_tracer("a tool")
    with tools.start_as_current_span("outside"):
        pass
    with of.executing(CLIENT, 5.0, {"mcp.method.name": "tools/call"}), tools.start_as_current_span("inside"):
        pass
    with of.publishing(CLIENT):
        pass
    of.close()
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"claim", "execute", "inside", "publish"}
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    assert found["inside"].parent.span_id == found["execute"].context.span_id
    assert found["claim"].end_time - found["claim"].start_time == 5_000_000


def test_what_is_behind_an_address_that_a_tool_asks_is_in_no_span(tracing: Make, spans: InMemorySpanExporter) -> None:
    of = tracing()
    asked = {
        "http.url": "https://user:canary@tools.test/v1/x?apikey=canary#canary", "http.method": "GET",
        "url.full": "https://tools.test/?canary", "http.target": "/v1/x?apikey=canary",
        "url.query": "apikey=canary", "url.fragment": "canary",
    }  # fmt: skip
    with of.executing(CLIENT, 0.0, {}):
        of._tools.get_tracer("a client").start_span("GET", attributes=asked).end()
    of.close()
    (span,) = (span for span in spans.get_finished_spans() if span.name == "GET")
    assert span.attributes == {
        "http.url": "https://tools.test/v1/x", "url.full": "https://tools.test/", "http.target": "/v1/x",
        "http.method": "GET",
    }  # fmt: skip
    assert "canary" not in span.to_json()


def test_a_key_in_the_place_of_a_tools_name_is_in_no_span(tracing: Make, spans: InMemorySpanExporter) -> None:
    of, key = tracing(), "tlk_eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    accepting = of.accepting(lambda _: "", "tools/call", {"name": key}, "acme", time.perf_counter())
    assert accepting is not None
    accepting.refused("rate")
    of.close()
    assert all(key not in span.to_json() for span in spans.get_finished_spans())


def test_trusted_clients_say_what_is_not_traced_either(tracing: Make) -> None:
    assert accept(tracing(1.0, clients=True), {"traceparent": UNSAMPLED}) == ""


def test_an_instrumentation_that_is_broken_is_left_off(tracing: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "trunkline.no_such_module:Instrumentor", "opentelemetry_instrumentor")
    monkeypatch.setattr("trunkline.tracing.entry_points", lambda **_: [broken])
    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", lambda _: None)
    with capture_logs() as logs:
        tracing().serve_tools()
    assert [(line["log_level"], line["name"]) for line in logs] == [("warning", "broken")]
