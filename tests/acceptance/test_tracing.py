"""One call is one tree of spans across both processes, down to what its tool asks of others."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.acceptance.pods import TLS, Deployment, becomes_true, deployed
from tests.acceptance.sessions import Session
from tests.streamable import Client, call, modern

from trunkline.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = f"00-{TRACE}-b7ad6b7169203331-01"


@dataclass
class Collector:
    """A stub of a collector, which is also the service that a tool asks."""

    url: str
    spans: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """The `traceparent` of each request of a tool."""
    bytes: bytes = b""
    """All that was exported, to look for what must not be in it."""

    def named(self, trace: str) -> dict[str, dict[str, Any]]:
        """The spans of a trace by name."""
        return {span["name"]: span for span in self.spans if span["trace"] == trace}


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.bytes += body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    found.spans.append(
                        {
                            "name": span.name, "trace": span.trace_id.hex(), "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(), "process": names["service.name"],
                            "took": span.end_time_unix_nano - span.start_time_unix_nano,
                            "attributes": {each.key: each.value.string_value for each in span.attributes},
                        }
                    )  # fmt: skip
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            found.asked.append(self.headers.get("traceparent", ""))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def deployment(settings: Settings, tmp_path: Path, collector: Collector) -> AsyncIterator[Deployment]:
    """One that traces every call, and hosts a server whose tool traces something itself and asks another service."""
    changes = {"otlp_endpoint": collector.url, "trace_ratio": 1.0, "servers": ("tests.servers.asking:server",)}
    async with deployed(settings.model_copy(update=changes), tmp_path) as made:
        await made.enable("asking")
        yield made


async def end(deployment: Deployment) -> None:
    """Have all pods end in order, which exports what waits."""
    for pod in deployment.pods:
        pod.process.terminate()
    for pod in deployment.pods:
        assert await pod.ended() == 0, pod.lines()[-5:]


async def test_a_call_is_one_tree_across_both_processes_and_its_tool(
    deployment: Deployment, collector: Collector
) -> None:
    api, _ = await deployment.start(apis=1, workers=1)
    async with httpx2.AsyncClient(trust_env=False, verify=TLS, timeout=30) as http:
        client = Client(api.url, http, deployment.key)
        for tool in ("ask", "ask_in_thread"):
            message = modern(call(1, tool, url=collector.url, secret="canary-argument"))
            headers = client.stateless(message)
            trace = TRACE if tool == "ask" else TRACE.replace("0af7", "1af7")
            answer = await client.ask(message, **headers, traceparent=CLIENT.replace(TRACE, trace))
            assert "result" in answer, answer
        message = modern(
            call(1, "fail", url="", secret="canary-argument"), traceparent=CLIENT.replace("0af7", "2af7")
        )
        assert (await client.ask(message, **client.stateless(message)))["result"]["isError"]
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        assert await session.call("add", a=3, b=5) == "8"
    await end(deployment)

    for trace, asked in zip((TRACE, TRACE.replace("0af7", "1af7")), collector.asked, strict=True):
        spans = collector.named(trace)
        assert sorted(spans) == ["GET", "accept", "claim", "deliver", "enqueue", "execute", "publish", "thinking"]
        assert spans["accept"]["parent"] == "b7ad6b7169203331"
        by_id = {span["id"]: name for name, span in spans.items()}
        parents = {name: by_id.get(span["parent"], "") for name, span in spans.items()}
        assert parents == {
            "accept": "", "enqueue": "accept", "claim": "enqueue", "execute": "claim",
            "thinking": "execute", "GET": "thinking",
            "publish": "enqueue", "deliver": "enqueue",
        }  # fmt: skip
        processes = {name: span["process"] for name, span in spans.items()}
        assert {processes[name] for name in ("accept", "enqueue", "deliver")} == {"trunkline-api"}
        assert {processes[name] for name in ("claim", "execute", "publish", "thinking", "GET")} == {
            "trunkline-worker"
        }
        assert asked.split("-")[1:3] == [trace, spans["GET"]["id"]], "the request of the tool goes on with it"
        assert all(0 <= span["took"] < 30e9 for span in spans.values())
        assert spans["accept"]["attributes"]["trunkline.tenant"] == "demo"
        assert spans["accept"]["attributes"]["gen_ai.tool.name"].startswith("ask")

    failed = collector.named(TRACE.replace("0af7", "2af7"))
    assert failed["execute"]["attributes"]["error.type"] == "tool_error"
    assert failed["execute"]["attributes"]["gen_ai.tool.name"] == "fail"

    own = [span for span in collector.spans if span["name"] == "accept" and not span["parent"]]
    assert {span["attributes"]["mcp.method.name"] for span in own} == {"initialize", "tools/call"}
    assert all(len(collector.named(span["trace"])) >= 6 for span in own), "without a client's, each has its own"
    for secret in (deployment.key, "canary-argument", *({session.endpoint.partition("=")[2]})):
        assert secret.encode() not in collector.bytes


async def test_a_collector_that_is_away_costs_no_call(deployment: Deployment, collector: Collector) -> None:
    deployment.settings = deployment.settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9"})
    api, worker = await deployment.start(apis=1, workers=1)
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        for number in range(20):
            assert await session.call("add", a=number, b=1) == str(number + 1)
    await end(deployment)
    assert collector.spans == []
    for pod in (api, worker):
        assert not any(json.loads(line)["event"] == "call failed" for line in pod.lines())
        assert not any("Traceback" in line and "opentelemetry" not in line for line in pod.lines())
    assert await becomes_true(lambda: not api.running)


async def test_what_a_client_says_of_its_trace_has_nothing_traced_that_is_not(
    deployment: Deployment, collector: Collector
) -> None:
    deployment.settings = deployment.settings.model_copy(update={"trace_ratio": 0.0})
    api, _ = await deployment.start(apis=1, workers=1)
    async with httpx2.AsyncClient(trust_env=False, verify=TLS, timeout=30) as http:
        client = Client(api.url, http, deployment.key)
        for tool in ("ask", "fail"):
            message = modern(call(1, tool, url=collector.url, secret="x"), traceparent=CLIENT)
            await client.ask(message, **client.stateless(message), traceparent=CLIENT)
    await end(deployment)
    assert collector.spans == []
