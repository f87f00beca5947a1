"""Traces: spans of a call named after the stations, from the client's `traceparent` to the tool (W3C Trace Context).

Off, this is None wherever it could be, and a look at that is all it costs. On, a random number decides for each call,
before anything is made, whether it is traced; what is not traced costs that and no more. Spans go to a collector as
OTLP over HTTP, in batches, from a thread; one that is away or slow costs spans, never a call.

Nothing secret is in a span: no key, no session, no argument and no result.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import structlog

from trunkline import __version__
from trunkline.logs import redact
from trunkline.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_MOST_REMEMBERED: Final = 10_000
_EXPORT_TIMEOUT: Final = 5
"""Seconds that the collector has for a batch; what it does not take by then is dropped."""
_CLOSE_TIMEOUT: Final = 3.0
"""Seconds that a process that ends gives to sending what it has."""
_MARK: Final = b"\0"
"""What a traced message begins with on its way to a worker: JSON never does."""
_SAMPLED: Final = 0x01
_ADDRESSES: Final = frozenset({"url.full", "http.url", "http.target"})
_QUERIES: Final = frozenset({"url.query", "url.fragment"})
"""Attributes of OpenTelemetry's conventions, old and new, for what a request is sent to."""

log = structlog.get_logger(__name__)


def carried(body: bytes, place: str) -> bytes:
    """A message with its place in a trace, as it travels to a worker."""
    return b"%b%b\n%b" % (_MARK, place.encode(), body)


def parted(body: bytes) -> tuple[bytes, str]:
    """The message, and its place in a trace; empty for one that is not traced."""
    if not body.startswith(_MARK):
        return body, ""
    place, _, message = body[1:].partition(b"\n")
    return message, place.decode()


Header = Callable[[bytes], str]


def attributes_of(method: str, params: Mapping[str, Any], tenant: str) -> dict[str, str]:
    """What spans say of a call: OpenTelemetry's semantic conventions for MCP, and the tenant's slug."""
    attributes = {"mcp.method.name": redact(method[:256]), "trunkline.tenant": tenant}
    name = params.get("name") if method == "tools/call" else None
    if isinstance(name, str):
        attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": redact(name[:256])}
    return attributes


class Accepting:
    """A traced call while it is accepted."""

    def __init__(self, tracing: Tracing, accept: Span, enqueue: Span) -> None:
        self._tracing = tracing
        self._accept = accept
        self._enqueue = enqueue

    def carry(self, body: bytes) -> bytes:
        """What is to be enqueued in the place of the message."""
        return carried(body, self._tracing.place(self._enqueue))

    def accepted(self, call: str) -> None:
        """It is in its lane."""
        self._enqueue.end()
        self._accept.end()
        self._tracing.remember(call, self._enqueue)

    def refused(self, reason: str) -> None:
        """Nothing came of it; `reason` is one of `errors.Refusal`."""
        for span in (self._enqueue, self._accept):
            self._tracing.fail(span, reason)
            span.end()


class Tracing:
    """The traces of one process."""

    def __init__(self, settings: Settings, process: str, pod: str, exporter: SpanExporter | None = None) -> None:
        """`exporter`: where spans go, if not to the collector of the settings."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._ratio = settings.trace_ratio
        self._trusts_clients = settings.trace_clients
        self._format = TraceContextTextMapPropagator()
        names = {"service.name": f"trunkline-{process}", "service.version": __version__, "service.instance.id": pod}
        resource = Resource.create(names)
        endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # one line for each batch that is lost is enough
        discreet = _Discreet(exporter or OTLPSpanExporter(endpoint, timeout=_EXPORT_TIMEOUT))
        self._processor = BatchSpanProcessor(cast("SpanExporter", discreet))
        self._own = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._own.add_span_processor(self._processor)
        self._tracer = self._own.get_tracer("trunkline", __version__)
        # What a client says of its trace is no reason to sample: only a span of this process is.
        sampler = ParentBased(ALWAYS_OFF, remote_parent_sampled=ALWAYS_OFF)
        self._tools = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        """What tools trace by themselves is part of a call's trace, and nothing where the call has none."""
        self._tools.add_span_processor(self._processor)
        self._awaited: OrderedDict[bytes, Context] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings, process: str, pod: str) -> Tracing | None:
        """The traces of a process; None where they are off."""
        return cls(settings, process, pod) if settings.otlp_endpoint else None

    # API pods.

    def accepting(
        self, header: Header, method: str, params: Mapping[str, Any], tenant: str, began: float
    ) -> Accepting | None:
        """Begin the trace of a call, or go on with its client's; None where it is not traced.

        Args:
            header: Gives a header of the request by its lower-case name; empty where it is missing.
            method: Of the JSON-RPC message.
            params: Of the message; what its `_meta` says of a trace counts where the headers say nothing.
            tenant: Its slug.
            began: When the head of the request had arrived, by `time.perf_counter`.
        """
        said = _said(header, params)
        if not self._wants(said):
            return None
        started = time.time_ns() - round((time.perf_counter() - began) * 1e9)
        attributes = attributes_of(method, params, tenant)
        accept = self._start("accept", self._format.extract(said) if said else None, "SERVER", attributes, started)
        return Accepting(self, accept, self._start("enqueue", _under(accept), "PRODUCER"))

    def remember(self, call: str, enqueue: Span) -> None:
        """The answer of that call is awaited in this pod, or its client's stream is elsewhere."""
        self._awaited[call.encode()] = _under(enqueue)
        if len(self._awaited) > _MOST_REMEMBERED:
            self._awaited.popitem(last=False)

    def delivered(self, tag: bytes, arrived: int) -> None:
        """What `tag` names was handed to its client, having arrived at `arrived` (epoch ns): an answer, or not."""
        if (context := self._awaited.pop(tag, None)) is not None:
            self._start("deliver", context, "CONSUMER", {}, arrived).end()

    # Workers.

    def serve_tools(self) -> None:
        """Have what tools and the SDK trace by themselves be part of the traces of their calls.

        Instrumentations that are installed beside a server (entry points of the group `opentelemetry_instrumentor`)
        are switched on, so that outgoing requests carry the trace on.
        """
        from opentelemetry.trace import set_tracer_provider

        set_tracer_provider(self._tools)
        for found in entry_points(group="opentelemetry_instrumentor"):
            if found.name in _OUR_OWN:
                continue
            try:
                found.load()().instrument(skip_dep_check=False)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the worker serves without it
                log.warning("an instrumentation cannot be switched on", name=found.name, error=repr(error))

    @contextlib.contextmanager
    def executing(self, place: str, waited_ms: float, attributes: Mapping[str, str]) -> Iterator[Span]:
        """The station `execute`, for the length of the block, as the current span; `claim` is what came before."""
        from opentelemetry.trace import use_span

        now = time.time_ns()
        claim = self._start("claim", self._parent(place), "CONSUMER", {}, now - round(max(waited_ms, 0) * 1e6))
        claim.end(now)
        execute = self._start("execute", _under(claim), "INTERNAL", attributes)
        with use_span(execute, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield execute

    @contextlib.contextmanager
    def publishing(self, place: str) -> Iterator[None]:
        """The station `publish`, for the length of the block."""
        span = self._start("publish", self._parent(place), "PRODUCER")
        try:
            yield
        finally:
            span.end()

    # Both.

    def fail(self, span: Span, reason: str) -> None:
        """Note why what the span stands for did not succeed."""
        from opentelemetry.trace import StatusCode

        span.set_attribute("error.type", reason)
        span.set_status(StatusCode.ERROR)

    def place(self, span: Span) -> str:
        """A span as others name it: its `traceparent`, and the `tracestate` if there is one (W3C Trace Context)."""
        carrier: dict[str, str] = {}
        self._format.inject(carrier, _under(span))
        return f"{carrier['traceparent']} {carrier.get('tracestate', '')}".rstrip()

    def close(self) -> None:
        """Send what has ended, for some seconds at most; blocks."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)  # its own patience is half a minute
        closing.start()
        closing.join(_CLOSE_TIMEOUT)

    def _wants(self, said: Mapping[str, str]) -> bool:
        if self._trusts_clients and said:
            return bool(int(said["traceparent"][-2:], 16) & _SAMPLED)
        return random.random() < self._ratio  # noqa: S311 - not a secret

    def _parent(self, place: str) -> Context:
        traceparent, _, tracestate = place.partition(" ")
        return self._format.extract({"traceparent": traceparent, "tracestate": tracestate})

    def _start(
        self,
        name: str,
        parent: Context | None,
        kind: str,
        attributes: Mapping[str, str] | None = None,
        started: int | None = None,
    ) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        # An empty context, not the current one: whatever else may be current here is not this call's.
        return self._tracer.start_span(
            name, parent or Context(), SpanKind[kind], dict(attributes or {}), start_time=started
        )


_OUR_OWN: Final = frozenset({"asyncpg", "sqlalchemy", "redis", "asyncio", "threading", "logging", "system_metrics"})
"""Instrumentations of what the platform itself uses, whose spans would be its own business in a tenant's trace."""


class _Discreet:
    """Exports spans without what is behind an address: tools' requests carry keys and arguments in their queries."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.shutdown = exporter.shutdown
        self.force_flush = exporter.force_flush

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export in a batch, from the processor's thread."""
        return self._exporter.export([_cut(span) for span in spans])


def _cut(span: ReadableSpan) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan

    attributes = dict(span.attributes or {})
    if not attributes.keys() & (_ADDRESSES | _QUERIES):
        return span
    cut = {
        name: _place_of(str(value)) if name in _ADDRESSES else value
        for name, value in attributes.items()
        if name not in _QUERIES
    }
    return ReadableSpan(
        span.name, span.context, span.parent, span.resource, cut, span.events, span.links, span.kind,
        status=span.status, start_time=span.start_time, end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )  # fmt: skip


def _place_of(address: str) -> str:
    """An address without user, query and fragment."""
    try:
        parts = urlsplit(address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return ""


def _said(header: Header, params: Mapping[str, Any]) -> dict[str, str]:
    """What a client says of its trace; nothing where it says nothing that can be understood."""
    traceparent: object = header(b"traceparent")
    tracestate: object = header(b"tracestate") if traceparent else ""
    if not traceparent and isinstance(meta := params.get("_meta"), dict):
        traceparent, tracestate = meta.get("traceparent"), meta.get("tracestate")
    if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent) or traceparent[:2] == "ff":
        return {}
    state = tracestate if isinstance(tracestate, str) and len(tracestate) <= 512 else ""
    return {"traceparent": traceparent, **({"tracestate": state} if state else {})}


def _under(span: Span) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span, Context())
