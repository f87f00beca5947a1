"""One tree of errors: each knows its sentence, its HTTP status, its JSON-RPC code and its type as a problem.

The class docstring is the default message. One place renders them for the message path (`trunkline.api.http`), one
for the control plane (`trunkline.api.control.problems`, RFC 9457); the command line prints the sentence and exits.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Refusal = Literal[
    "invalid_message",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "not_acceptable",
    "too_large",
    "unsupported_media_type",
    "misdirected",
    "rate",
    "in_flight",
    "sessions",
    "lane_full",
    "audit_full",
    "store_away",
    "draining",
    "quota",
    "address",
    "other",
]
"""Why a message or connection was refused. A closed set: it is a label of the metrics."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REQUEST_TIMEOUT = -32001
"""The code that the SDKs use for a call that ran out of time (not in JSON-RPC itself)."""
HEADER_MISMATCH = -32020
"""Of revision 2026-07-28: a header does not say what the body says."""
UNSUPPORTED_VERSION = -32022
"""Of revision 2026-07-28: the protocol version is not served."""
REQUEST_CANCELLED = -32800
"""The code that the SDK answers a cancelled request with where its stream must have an end (from LSP)."""
REFUSED = -32000
"""Server error range of JSON-RPC 2.0, section 5.1: refused for a reason that the HTTP status names."""


class TrunklineError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    code: ClassVar[int] = INTERNAL_ERROR
    reason: ClassVar[Refusal] = "other"
    problem: ClassVar[str] = "error"
    """Last part of the problem's type URI (RFC 9457, section 3.1.1); what programs tell errors apart by."""
    title: ClassVar[str] = "Something went wrong"
    """The problem's title, the same for all of its kind; the slug in words unless a class says otherwise."""

    def __init_subclass__(cls) -> None:
        named = cls.__dict__
        if "problem" in named and "title" not in named:
            cls.title = cls.problem.replace("-", " ").capitalize()

    def __init__(self, message: str | None = None, *, retry_after: float | None = None, data: object = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.retry_after = retry_after
        """Seconds after which trying again makes sense; sent as `Retry-After`, rounded up."""
        self.data = data
        """What a JSON-RPC error says besides; None for nothing."""
        super().__init__(self.message)


# What a client did wrong.


class InvalidMessage(TrunklineError):
    """The body is not a JSON-RPC 2.0 message."""

    status = 400
    code = INVALID_REQUEST
    reason = "invalid_message"
    problem = "invalid-message"


class UnparsableMessage(InvalidMessage):
    """The body is not JSON."""

    code = PARSE_ERROR


class InvalidParams(InvalidMessage):
    """The params of the message are not what its method wants."""

    code = INVALID_PARAMS


class HeaderMismatch(InvalidMessage):
    """A header does not say what the body says."""

    code = HEADER_MISMATCH


class UnsupportedVersion(InvalidMessage):
    """This protocol version is not served here."""

    code = UNSUPPORTED_VERSION


class MissingSessionId(TrunklineError):
    """The query parameter session_id is missing; POST to the URI that the endpoint event named."""

    status = 400
    code = INVALID_REQUEST
    reason = "invalid_message"


class Unauthorized(TrunklineError):
    """A valid API key is needed: send 'Authorization: Bearer tlk_...'."""

    status = 401
    code = REFUSED
    reason = "unauthorized"
    problem = "unauthorized"


class Forbidden(TrunklineError):
    """This API key does not allow that."""

    status = 403
    code = REFUSED
    reason: ClassVar[Refusal] = "forbidden"
    problem = "forbidden"


class OriginNotAllowed(Forbidden):
    """Requests from this Origin are not allowed."""

    problem = "origin-not-allowed"


class AddressNotAllowed(Forbidden):
    """This API key may not be used from this address."""

    reason = "address"
    problem = "address-not-allowed"


class NotFound(TrunklineError):
    """There is nothing at this address."""

    status = 404
    code = REFUSED
    reason = "not_found"
    problem = "not-found"


class TenantNotFound(NotFound):
    """There is no such tenant."""

    problem = "tenant-not-found"


class SessionNotFound(NotFound):
    """There is no such session; connect again to open a new one."""


class MethodNotAllowed(TrunklineError):
    """This address does not answer that method."""

    status = 405
    code = REFUSED
    reason = "method_not_allowed"
    problem = "method-not-allowed"

    def __init__(self, allow: str) -> None:
        super().__init__(f"This address answers {allow}.")
        self.allow = allow


class NotAcceptable(TrunklineError):
    """This address answers text/event-stream; the Accept header does not allow that."""

    status = 406
    code = REFUSED
    reason = "not_acceptable"


class BodyTooLarge(TrunklineError):
    """The body is larger than this server accepts."""

    status = 413
    code = REFUSED
    reason = "too_large"
    problem = "body-too-large"


class HeadTooLarge(TrunklineError):
    """The head of the request is larger than this server accepts; it has at most 64 KiB."""

    status = 431
    code = REFUSED
    reason = "too_large"


class HttpVersionTooOld(TrunklineError):
    """Streams need HTTP/1.1; a proxy in front may have to be told (nginx: proxy_http_version 1.1)."""

    status = 426
    code = REFUSED


class UnsupportedMediaType(TrunklineError):
    """Send the message as application/json."""

    status = 415
    code = REFUSED
    reason = "unsupported_media_type"
    problem = "unsupported-media-type"


class MisdirectedRequest(TrunklineError):
    """This server does not answer for that host name."""

    status = 421
    code = REFUSED
    reason = "misdirected"
    problem = "misdirected"


class TooManyRequests(TrunklineError):
    """The tenant has reached its limit; try again later."""

    status = 429
    code = REFUSED
    reason: ClassVar[Refusal] = "rate"
    problem = "too-many-requests"


class TooManyCalls(TooManyRequests):
    """The tenant has as many unanswered calls as it may have."""

    reason = "in_flight"


class TooManyListeners(TooManyRequests):
    """The tenant has as many subscriptions/listen streams here as it may have; close some."""

    reason = "sessions"


class TooManySessions(TooManyRequests):
    """The tenant has as many sessions as it may have; close some."""

    reason = "sessions"


class QuotaExceeded(TooManyRequests):
    """The month's quota is used up."""

    reason = "quota"
    problem = "quota-exceeded"


class Unavailable(TrunklineError):
    """The service is busy or a store is away; try again later."""

    status = 503
    code = REFUSED
    reason: ClassVar[Refusal] = "store_away"
    problem = "unavailable"


class NotStarted(Unavailable):
    """The service is busy, and nothing was begun; try again in a few seconds."""


class LaneFull(Unavailable):
    """Too many calls wait for a worker; try again shortly."""

    reason = "lane_full"


class AuditBacklogFull(Unavailable):
    """Too many audit events wait to be written; try again shortly."""

    reason = "audit_full"


class Draining(Unavailable):
    """This server is stopping; connect again."""

    reason = "draining"


# What a person at the command line meets.


class UsageError(TrunklineError):
    """The command was not used as it is meant to be."""

    status = 422
    code = INVALID_PARAMS
    problem = "invalid-request"
    title = "The request is not valid"


class StartRefused(TrunklineError):
    """The process cannot start as it is configured."""


class Conflict(TrunklineError):
    """That exists already."""

    status = 409
    code = REFUSED
    problem = "conflict"
