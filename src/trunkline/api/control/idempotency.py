"""`Idempotency-Key`: a request that makes something makes it once, however often it is sent."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import wraps
from hashlib import sha256
from typing import Annotated, Any, cast, get_type_hints

import orjson
import structlog
from fastapi import Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from trunkline.api.control.principal import address_of
from trunkline.errors import NotStarted, TrunklineError, Unavailable
from trunkline.tenants.idempotency import LONGEST_KEY, Claim, IdempotencyStore, Replay

Route = Callable[..., Awaitable[Any]]

REPLAYED = "Idempotency-Replayed"
_KEPT_HEADERS = frozenset({"set-cookie", "location", "content-type"})

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=LONGEST_KEY,
        pattern=r"^[\x21-\x7e]+$",
        description=(
            "Any text of your own that names this request. Sent again with the same text within a day, the request "
            f"makes nothing more: the first answer comes again, with `{REPLAYED}: true`."
        ),
    ),
]

log = structlog.get_logger(__name__)


def once(route: Route) -> Route:
    """Have a route honour `Idempotency-Key`; put it under the router's decorator.

    Guarantees: of all requests with one key of one principal, one runs. Where it succeeds, its answer is kept and
    given again. Where it is refused or was not begun, it has made nothing, and the key may be used again. Where its
    end is not known (a store went away under it), it is not run again, and whoever asks is told to look.

    A route changes things in its last transaction alone: then one that found no connection has changed nothing.
    """
    signature = inspect.signature(route)
    # FastAPI gives the request to one parameter of a route, so one that the route has is used.
    own = next((name for name, kind in get_type_hints(route).items() if kind is Request), None)
    named = own or "sent_request"
    extra = [inspect.Parameter("idempotency_key", inspect.Parameter.KEYWORD_ONLY, annotation=Key, default=None)]
    if own is None:
        extra.append(inspect.Parameter(named, inspect.Parameter.KEYWORD_ONLY, annotation=Request))

    @wraps(route)
    async def run_once(*, idempotency_key: str | None, **given: Any) -> Any:
        request = given[named] if own else given.pop(named)
        if idempotency_key is None:
            return await route(**given)
        store: IdempotencyStore = request.app.state.control.idempotency
        tenant_id, principal = _who(request, given)
        claim = await store.claim(tenant_id, principal, idempotency_key, await _request(request))
        if isinstance(claim, Replay):
            return _replayed(claim)
        return await _run(store, claim, request, route, given)

    cast("Any", run_once).__signature__ = signature.replace(parameters=[*_keywords(signature), *extra])
    return run_once


def _keywords(signature: inspect.Signature) -> Iterable[inspect.Parameter]:
    return (each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values())


async def _run(
    store: IdempotencyStore, claim: Claim, request: Request, route: Route, given: Mapping[str, Any]
) -> Response:
    try:
        result = await route(**given)
    except TrunklineError as error:
        if isinstance(error, NotStarted) or not isinstance(error, Unavailable):  # else it took effect, perhaps
            await _unless_away(store.release(claim))
        raise
    answer = _answer(request.scope["route"], result, given)
    kept = {
        "headers": [(name, value) for name, value in answer.headers.items() if name in _KEPT_HEADERS],
        "body": bytes(answer.body).decode(),
    }
    await _unless_away(store.complete(claim, answer.status_code, orjson.dumps(kept)))
    return answer


async def _unless_away(work: Awaitable[None]) -> None:
    try:
        await work
    except Unavailable:  # what was made is made, and must be told
        log.warning("the end of a request with an Idempotency-Key could not be noted")


def _answer(route: APIRoute, result: Any, given: Mapping[str, Any]) -> Response:
    """What FastAPI would make of a route's result: it is needed as bytes here."""
    if isinstance(result, Response):
        return result
    body = TypeAdapter(route.response_model).dump_json(
        result,
        by_alias=route.response_model_by_alias,
        exclude_none=route.response_model_exclude_none,
        exclude_unset=route.response_model_exclude_unset,
    )
    answer = Response(body, route.status_code or 200, media_type="application/json")
    for each in given.values():
        if isinstance(each, Response):  # the one that the route sets its headers and cookies on
            answer.raw_headers += [pair for pair in each.raw_headers if pair[0] != b"content-length"]
    return answer


def _replayed(replay: Replay) -> Response:
    kept = orjson.loads(replay.body)
    answer = Response(kept["body"].encode(), replay.status)
    for name, value in kept["headers"]:
        answer.headers.append(name, value)
    answer.headers[REPLAYED] = "true"
    return answer


async def _request(request: Request) -> bytes:
    """All that makes a request what it is."""
    return b"\0".join((request.method.encode(), str(request.url.path).encode(), await request.body()))


def _who(request: Request, given: Mapping[str, Any]) -> tuple[str, str]:
    """Tenant and principal; of somebody whom nobody knows yet, what they say and where they call from."""
    actor = given.get("actor")
    if actor is not None:
        return actor.tenant_id, actor.principal
    email = next((each.email for each in given.values() if hasattr(each, "email")), "")
    return "", "signup:" + sha256(f"{email.lower()}\0{address_of(request)}".encode()).hexdigest()
