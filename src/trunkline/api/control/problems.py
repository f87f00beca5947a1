"""Errors of the control plane as problem details (RFC 9457): what went wrong, and what to do about it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic import BaseModel, Field

from trunkline import errors
from trunkline.control_errors import FieldError, PreconditionFailed, ValidationFailed
from trunkline.errors import MethodNotAllowed, TrunklineError, Unauthorized

MEDIA_TYPE: Final = "application/problem+json"
PAGE: Final = "/docs/problems"
"""Where the types of problems are described; a type is this address with the slug as its fragment."""
USUAL: Final = (401, 403, 404, 422, 429, 503)
"""Statuses that any route may answer with."""

_EXAMPLES: Final[dict[int, type[TrunklineError]]] = {
    400: errors.InvalidMessage,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.TenantNotFound,
    405: errors.MethodNotAllowed,
    409: errors.Conflict,
    412: PreconditionFailed,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
    422: ValidationFailed,
    429: errors.TooManyRequests,
    503: errors.Unavailable,
}


class FieldProblem(BaseModel):
    """What is wrong with one part of the request."""

    pointer: str = Field(description="JSON Pointer into the body (RFC 6901), or `query/<name>`, `path/<name>`.")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="What kind of problem it is; the page that it leads to says more.")
    title: str
    status: int
    detail: str = Field(description="One sentence that says what to do.")
    instance: str = Field(description="The request's id, as in `X-Request-Id`.")
    errors: list[FieldProblem] | None = Field(default=None, description="What is wrong where, with status 422.")


def problem_of(error: TrunklineError, public_url: str, request_id: str) -> Problem:
    """An error as a problem."""
    fields: Sequence[FieldError] = error.errors if isinstance(error, ValidationFailed) else ()
    return Problem(
        type=f"{public_url}{PAGE}#{error.problem}",
        title=error.title,
        status=error.status,
        detail=error.message,
        instance=f"urn:uuid:{request_id}",
        errors=[FieldProblem(pointer=each.pointer, detail=each.detail) for each in fields] or None,
    )


def body_of(problem: Problem) -> bytes:
    """The problem as JSON."""
    return problem.model_dump_json(exclude_none=True).encode()


def headers_of(error: TrunklineError) -> dict[str, str]:
    """The headers that go with an error's answer."""
    headers = {"content-type": MEDIA_TYPE}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(math.ceil(error.retry_after), 1))
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="trunkline"'
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allow
    return headers


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers besides its success, for its `responses=`: the usual statuses and these, with examples."""
    return {status: _response(status) for status in sorted({*USUAL, *statuses})}


def _response(status: int) -> dict[str, Any]:
    kind = _EXAMPLES[status]
    example = {
        "type": f"https://trunkline.example{PAGE}#{kind.problem}",
        "title": kind.title,
        "status": status,
        "detail": _sentence(kind),
        "instance": "urn:uuid:01a20489-6abc-772f-972f-8cf86b307e62",
    }
    if kind is ValidationFailed:
        example["errors"] = [{"pointer": "/name", "detail": "Field required"}]
    return {
        "description": kind.title,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }


def kinds() -> Iterator[tuple[str, str, int, list[str]]]:
    """Each type of problem by slug: its title, its status, and the sentences of the errors that have it."""
    found: dict[str, tuple[str, int, list[str]]] = {}
    waiting: list[type[TrunklineError]] = [TrunklineError]
    while waiting:
        kind = waiting.pop(0)
        waiting += kind.__subclasses__()
        title, status, sentences = found.setdefault(kind.problem, (kind.title, kind.status, []))
        sentences.append(_sentence(kind))
    for slug, (title, status, sentences) in sorted(found.items()):
        yield slug, title, status, sentences


def _sentence(kind: type[TrunklineError]) -> str:
    return re.sub(r"\s+", " ", (kind.__doc__ or "").strip())
