"""The API pod's application: which address is answered by what, and where errors become answers."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING
from typing import Protocol as Interface
from urllib.parse import urlsplit

import structlog

from trunkline.api.heads import LARGEST_HEAD, Head, Headers, KnownHeads, Route
from trunkline.api.health import Health
from trunkline.api.http import ClientGone, Request
from trunkline.api.inbound import is_stateless
from trunkline.api.ratelimit import EXPOSED
from trunkline.api.sse import SseTransport
from trunkline.api.stateless import StatelessTransport
from trunkline.api.streamable import StreamableTransport
from trunkline.errors import (
    HeadTooLarge,
    InvalidMessage,
    MethodNotAllowed,
    MisdirectedRequest,
    NotFound,
    OriginNotAllowed,
    TrunklineError,
)
from trunkline.metrics import Metrics
from trunkline.settings import Settings

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from trunkline.api.connection import Protocol

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[None]]


class ControlPlane(Interface):
    """What answers `/v1`; `trunkline.api.control.app` where this pod serves it."""

    async def handle(self, request: Request) -> None:
        """Answer one request."""

    async def refuse(self, request: Request, error: TrunklineError) -> None:
        """Answer with an error in the control plane's own form."""


_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ALLOWED_HEADERS = (
    "authorization, content-type, accept, mcp-protocol-version, mcp-session-id, last-event-id, mcp-method, mcp-name, "
    "traceparent, tracestate, x-request-id"
)
_EXPOSED_HEADERS = b"mcp-session-id, mcp-protocol-version, www-authenticate, retry-after, " + EXPOSED
_CONTROL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CONTROL_PAGES = frozenset({"/v1", "/docs", "/docs/", "/openapi.json"})
_CONTROL_HEADERS = ", x-csrf-token, idempotency-key, if-match"
_CONTROL_EXPOSED = b", link, location, etag, x-request-id, idempotency-replayed, content-disposition"


class App:
    """Routes requests, checks Host and Origin on every one of them, and renders every error."""

    def __init__(
        self,
        settings: Settings,
        sse: SseTransport,
        streamable: StreamableTransport,
        stateless: StatelessTransport,
        health: Health,
        metrics: Metrics,
        control: ControlPlane | None = None,
    ) -> None:
        self._control = control
        self._control_methods: dict[str, Handler] = {}
        if control is not None:
            self._control_methods.update(dict.fromkeys(_CONTROL_METHODS, control.handle))
        self._settings = settings
        self._metrics = metrics
        self._all_hosts = "*" in settings.allowed_hosts
        self._hosts = _LOOPBACK | {settings.public_host, *settings.allowed_hosts}
        # All names below localhost are this machine's (RFC 6761, section 6.3); below an address there are none.
        self._tenant_names = ".localhost" if settings.public_host in _LOOPBACK else f".{settings.public_host}"
        self._all_origins = "*" in settings.allowed_origins
        self._origins = {settings.public_origin, *settings.allowed_origins}
        self.heads = KnownHeads()
        self._tenant_routes: dict[str, dict[str, Handler]] = {
            "mcp": {"GET": streamable.get, "POST": streamable.post, "DELETE": streamable.delete},
            "sse": {"GET": sse.connect},
            "messages": {"POST": sse.post},
            "tickets": {"POST": sse.issue_ticket},
        }
        # Both eras of streamable HTTP have one address; the protocol version of a request tells which it is of.
        self._stateless: dict[Handler, Handler] = {
            streamable.get: stateless.refuse,
            streamable.post: stateless.post,
            streamable.delete: stateless.refuse,
        }
        self._routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": health.health, "HEAD": health.health},
            "/livez": {"GET": health.livez, "HEAD": health.livez},
            "/readyz": {"GET": health.readyz, "HEAD": health.readyz},
            "/metrics": {"GET": health.metrics},
            "/.well-known/jwks.json": {"GET": health.jwks},
        }

    async def __call__(self, head: Head, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        """Answer one request."""
        request = Request(head, protocol, cycle)
        try:
            route = head.route
            if route is None:
                route = head.route = self._route(request)
            handler, request.tenant, request.cors = route
            await handler(request)
        except ClientGone:
            return
        except TrunklineError as error:
            self._metrics.refuse(error.reason)
            await self._refuse(request, error)
        except Exception:  # the edge of a request: anything else is our fault, and is said without its details
            log.exception("request failed", path=head.path.decode("latin-1"))
            self._metrics.internal_errors_total.inc()
            with contextlib.suppress(RuntimeError):  # the answer had begun
                await self._refuse(request, TrunklineError("Something went wrong here; it was logged."))

    async def _refuse(self, request: Request, error: TrunklineError) -> None:
        if self._control is not None and _is_control(request.head.path.decode("latin-1")):
            await self._control.refuse(request, error)
        else:
            await request.refuse(error)

    def _route(self, request: Request) -> Route:
        """Where a request goes, by its head alone: whoever sends the same head again is not looked at again."""
        head = request.head
        if head.size > LARGEST_HEAD:
            raise HeadTooLarge
        _refuse_duplicates(head)
        self._check_host(head)
        request.cors = self._check_origin(head)
        # The path as it was sent: no route has anything to escape, and a proxy's rules see the same.
        name, tenant = _address(head.path.decode("latin-1"))
        methods = self._tenant_routes.get(name) if tenant else self._routes.get(name)
        if methods is None:
            if not self._control_methods or not _is_control(name):
                raise NotFound
            methods = self._control_methods
        handler = methods.get(head.method)
        if handler is None:
            allow = ", ".join([*methods, "OPTIONS"])
            if head.method != "OPTIONS":
                raise MethodNotAllowed(allow)
            handler = partial(self._preflight, allow)
        if handler in self._stateless and is_stateless(head):
            handler = self._stateless[handler]
        return Route(handler, tenant, request.cors)

    def _check_host(self, head: Head) -> None:
        """Answer for our own names alone: a page on another name must not reach us by DNS rebinding."""
        if self._all_hosts:
            return
        host = _host_name(head.header(b"host"))
        if host not in self._hosts and not host.endswith(self._tenant_names):
            raise MisdirectedRequest

    def _check_origin(self, head: Head) -> Headers:
        """Let pages of allowed origins in, with what CORS wants said in the answer; others get 403."""
        origin = head.header(b"origin")
        if not origin:
            return ()
        if not self._all_origins and origin not in self._origins and _origin_name(origin) not in _LOOPBACK:
            raise OriginNotAllowed
        return (
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", _exposed(head.path.decode("latin-1"))),
            (b"vary", b"origin"),
        )

    async def _preflight(self, allow: str, request: Request) -> None:
        """OPTIONS, without a key: what a browser may send (Fetch standard, CORS-preflight request)."""
        wanted = request.header(b"access-control-request-headers").lower()
        control = _CONTROL_HEADERS if _is_control(request.head.path.decode("latin-1")) else ""
        extra = [name.strip() for name in wanted.split(",") if name.strip().startswith("mcp-param-")]
        headers = [
            (b"allow", allow.encode()),
            (b"access-control-allow-methods", b"GET, POST, DELETE" + (b", PUT, PATCH" if control else b"")),
            (b"access-control-allow-headers", ", ".join([_ALLOWED_HEADERS + control, *extra]).encode()),
            (b"access-control-max-age", b"7200"),
        ]
        await request.answer(204, b"", *headers)


def _refuse_duplicates(head: Head) -> None:
    """Refuse a request that says twice who it is or whom it is for: a proxy in front may have read the other.

    Raises:
        InvalidMessage: Host, Authorization, Origin, Content-Length or Mcp-Session-Id comes more than once.
    """
    for name in (b"host", b"authorization", b"origin", b"content-length", b"mcp-session-id"):
        if head.names.count(name) > 1:
            raise InvalidMessage(f"The header {name.decode()} comes more than once.")


def _is_control(path: str) -> bool:
    return path.startswith(("/v1/", "/docs/")) or path in _CONTROL_PAGES


def _exposed(path: str) -> bytes:
    return _EXPOSED_HEADERS + _CONTROL_EXPOSED if _is_control(path) else _EXPOSED_HEADERS


@lru_cache(1024)
def _address(path: str) -> tuple[str, str]:
    """Which route a path names and for which tenant; one trailing slash makes no difference."""
    path = path.removesuffix("/")
    parts = path.split("/")
    if len(parts) == 4 and parts[1] == "t" and parts[2]:
        return parts[3], parts[2]
    return path, ""


@lru_cache(1024)
def _host_name(header: str) -> str:
    """The name in a Host header (RFC 9110, section 7.2), lower case, without port and brackets."""
    with contextlib.suppress(ValueError):
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    return ""


@lru_cache(1024)
def _origin_name(origin: str) -> str:
    """The host name in an Origin header (RFC 6454, section 7); empty for anything else."""
    with contextlib.suppress(ValueError):
        return urlsplit(origin).hostname or ""
    return ""
