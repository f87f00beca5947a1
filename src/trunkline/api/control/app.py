"""The control plane as one application, and how an API pod hands requests to it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from threading import Lock
from typing import Any, Final
from urllib.parse import unquote

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request as WebRequest
from starlette.responses import Response
from starlette.routing import Match
from uuid_utils import uuid7

from trunkline import __version__
from trunkline.api.control import problems
from trunkline.api.control.deps import Control
from trunkline.api.control.examples import add_examples
from trunkline.api.control.principal import WHO
from trunkline.api.control.rate import Allowances
from trunkline.api.http import Request
from trunkline.api.messages import read_json
from trunkline.api.proxies import Proxies
from trunkline.control_errors import FieldError, ValidationFailed
from trunkline.errors import InvalidMessage, MethodNotAllowed, NotFound, TrunklineError, Unauthorized

log = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

ROUTERS: Final[tuple[str, ...]] = (
    "signup",
    "sessions",
    "members",
    "tenants",
    "operators",
    "users",
    "keys",
    "limits",
    "signing",
    "audit",
    "usage",
    "toolsets",
    "pages",
)
"""Modules of this package, each with a `router`."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL as JSON writes it, not behind a backslash that itself is escaped."""
_HAS_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
MOST_BYTES: Final = 65_536
"""Of a body: the largest that a route takes is a toolset's configuration, of 16 KiB."""
MOST_ELEMENTS: Final = 2_000
"""Values in a body: checking them holds up all other clients of the pod."""
MOST_FIELD_ERRORS: Final = 20
"""Told of one request; whoever mends these is told the next."""
_JSON: Final = frozenset({b"application/json", problems.MEDIA_TYPE.encode()})
_DESCRIPTION: Final = "Tenants, their members, keys, limits, usage, audit log and toolsets."


def make_control(control: Control) -> FastAPI:
    """The control plane: `/v1`, `/openapi.json`, `/docs`. Each name in ROUTERS is a module with `router`."""
    app = FastAPI(
        title="Trunkline",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=None,  # see `_describe`
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={
            TrunklineError: _answer_error,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_http,
            Exception: _answer_bug,
        },
    )
    app.state.control = control
    app.state.routes = []
    for name in ROUTERS:
        router = importlib.import_module(f"trunkline.api.control.{name}").router
        for route in router.routes:
            route.openapi_extra = {**(route.openapi_extra or {}), "x-permission": permission_of(route)}
        app.state.routes += router.routes
        app.include_router(router)
    app.openapi = partial(_describe, app)  # type: ignore[method-assign]
    app.add_route("/openapi.json", _show_description, include_in_schema=False)
    return app


_describing = Lock()
_description: dict[str, Any] = {}


def _describe(app: FastAPI) -> dict[str, Any]:
    """What all routes take and answer: the same for all applications of a process, and a quarter of a second to make.

    So it is made when somebody asks, in that request's thread.
    """
    with _describing:
        if not _description:
            described = _with_problems(FastAPI.openapi(app))
            add_examples(described)
            _description.update(described)
    return _description


def _show_description(request: WebRequest) -> Response:
    return Response(orjson.dumps(request.app.openapi()), media_type="application/json")


def routes(app: FastAPI) -> list[APIRoute]:
    """The routes of `/v1`, in order."""
    return [route for route in app.state.routes if route.path.startswith("/v1")]


def permission_of(route: APIRoute) -> str:
    """What a route asks for: a permission, `user`, `operator`, `known`, or `public` for nothing."""
    for each in route.dependant.dependencies:
        if permission := getattr(each.call, "permission", ""):
            return str(permission)
    return "public"


class ControlPlane:
    """Answers what belongs to the control plane: bounds the body, counts the request, and then the application."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._settings = control.settings
        self._app = make_control(control)
        self._proxies = Proxies(self._settings.trusted_proxies)
        self._allowances = Allowances(control.settings)
        self._app.state.allowances = self._allowances

    async def handle(self, request: Request) -> None:
        """Answer one request; whatever goes wrong is a problem."""
        address = request.address(self._proxies)
        request.cors += self._allowances.count(request, address)
        request_id = str(uuid7())
        certain = request.address(self._proxies, certain=True)
        scope = _scope(request) | {"state": {"address": address, "certain": certain, "request_id": request_id}}
        body = await self._body(request, scope) if request.head.method in _HAS_BODY else b""
        answer = _Answer(request, request_id)
        try:
            await self._app(scope, _once(body, request.receive), answer.send)
        except Exception:  # the edge of a request, as in `trunkline.api.app`; the application has answered already
            if not answer.begun:
                raise
            log.exception("request failed", path=scope["path"])
            self._control.metrics.internal_errors_total.inc()

    async def refuse(self, request: Request, error: TrunklineError) -> None:
        """Answer with a problem what did not get as far as the application."""
        request_id = str(uuid7())
        problem = problems.problem_of(error, self._settings.public_url, request_id)
        headers = [(name.encode(), value.encode()) for name, value in problems.headers_of(error).items()]
        await request.answer(error.status, problems.body_of(problem) + b"\n", *headers, *_own_headers(request_id))

    async def _body(self, request: Request, scope: MutableMapping[str, Any]) -> bytes:
        """The body, if there is one: JSON, within the bounds of every body here.

        Raises:
            Unauthorized: it comes from nobody, and its route is not for everybody; it was not read.
            UnsupportedMediaType, BodyTooLarge, InvalidMessage, UnparsableMessage: it is not.
            ClientGone: the client hung up.
        """
        if request.empty:
            return b""
        if not (b"authorization" in request.head.headers or b"cookie" in request.head.headers):
            self._refuse_nobody(scope)
        most = min(MOST_BYTES, self._settings.max_body_bytes)
        body = await request.body(most, self._settings.body_timeout)
        if body:
            read_json(body, min(MOST_ELEMENTS, self._settings.max_json_elements))
            if _NUL.search(body):  # Postgres keeps none in text
                raise ValidationFailed("The body holds a NUL character (\\u0000); leave it out.")
        return body

    def _refuse_nobody(self, scope: MutableMapping[str, Any]) -> None:
        for route in self._app.state.routes:
            if route.matches(scope)[0] is Match.FULL:
                if route.openapi_extra["x-permission"] != "public":
                    raise Unauthorized(WHO)
                return


class _Answer:
    """Adds to an answer what all of them carry."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._request = request
        self._own = _own_headers(request_id)
        self._line = False
        """Whether it is a JSON document, sent whole: a line of its own in a terminal."""
        self.begun = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = dict(message["headers"])
            length = headers.get(b"content-length", b"0")
            self._line = headers.get(b"content-type") in _JSON and length != b"0"
            sent = [
                (name, b"%d" % (int(value) + 1) if self._line and name == b"content-length" else value)
                for name, value in message["headers"]
            ]
            message["headers"] = [*sent, *self._own, *self._request.cors]
        elif self._line and not message.get("more_body"):
            message["body"] = message.get("body", b"") + b"\n"
        await self._request.send(message)


def _own_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]


def _scope(request: Request) -> dict[str, Any]:
    """The request as ASGI has it (HTTP connection scope, version 2.3): a trailing slash is none, HEAD is GET."""
    head = request.head
    raw = head.path.removesuffix(b"/") or b"/"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": "GET" if head.method == "HEAD" else head.method,
        "scheme": "http",
        "path": unquote(raw.decode("latin-1")),
        "raw_path": raw,
        "query_string": head.query,
        "root_path": "",
        "headers": list(head.headers.items()),
        "client": request.protocol.client,
        "server": request.protocol.server,
        "extensions": {},
    }


def _once(body: bytes, receive: Receive) -> Receive:
    """A body that was read already; what comes after it is asked of the connection."""
    given = False

    async def take() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return take


def _respond(request: WebRequest, error: TrunklineError) -> Response:
    control: Control = request.app.state.control
    control.metrics.refuse_control(error.reason)
    problem = problems.problem_of(error, control.settings.public_url, request.scope["state"]["request_id"])
    return Response(problems.body_of(problem), error.status, problems.headers_of(error))


async def _answer_error(request: WebRequest, error: Exception) -> Response:
    assert isinstance(error, TrunklineError)  # noqa: S101 - what it is registered for
    return _respond(request, error)


async def _answer_invalid(request: WebRequest, error: Exception) -> Response:
    """What does not fit the route's parameters and body. It repeats nothing that was sent: that may be a password."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    fields = [FieldError(_pointer(each["loc"]), str(each["msg"])) for each in error.errors()[:MOST_FIELD_ERRORS]]
    first = f"{fields[0].pointer or 'The body'}: {fields[0].detail}" if fields else "It does not fit."
    return _respond(request, ValidationFailed(f"The request is not valid. {first}.", fields))


async def _answer_http(request: WebRequest, error: Exception) -> Response:
    """What the routing itself refuses."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    if error.status_code == 405:
        return _respond(request, MethodNotAllowed((error.headers or {}).get("Allow", "")))
    if error.status_code == 400:
        return _respond(request, InvalidMessage("The request cannot be read; send JSON in UTF-8."))
    return _respond(request, NotFound())


async def _answer_bug(request: WebRequest, _error: Exception) -> Response:
    return _respond(request, TrunklineError("Something went wrong here; it was logged."))


def _pointer(loc: tuple[int | str, ...]) -> str:
    where, *parts = loc
    if where == "body":
        return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)
    return "/".join(map(str, loc))


def _with_problems(schema: dict[str, Any]) -> dict[str, Any]:
    """The description, with the schema of problems in place of the framework's own of its errors.

    What `ControlPlane` refuses of bodies before a route sees them is described, too.
    """
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    own = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(own.pop("$defs"))
    schemas["Problem"] = own
    bodies = {str(status): told for status, told in problems.responses(400, 413, 415).items()}
    for methods in schema["paths"].values():
        for method, operation in methods.items():
            if method.upper() in _HAS_BODY:
                operation["responses"] = {**bodies, **operation["responses"]}
    return schema
