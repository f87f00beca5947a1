"""Branches of the tree of errors (`trunkline.errors`) that only the control plane says, as problems (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trunkline.errors import (
    INVALID_PARAMS,
    Conflict,
    Forbidden,
    NotFound,
    TrunklineError,
    Unauthorized,
)


class FieldError(NamedTuple):
    """What is wrong with one part of a request's body."""

    pointer: str
    """Where (JSON Pointer, RFC 6901), or `query/<name>` and `path/<name>`."""
    detail: str


class ValidationFailed(TrunklineError):
    """The request is not what this address takes."""

    status = 422
    code = INVALID_PARAMS
    problem = "invalid-request"
    title = "The request is not valid"

    def __init__(self, message: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class CursorNotFound(NotFound):
    """There is no such cursor; begin again without one."""

    problem = "cursor-not-found"


class KeyNotFound(NotFound):
    """There is no such key."""

    problem = "key-not-found"


class InvitationNotFound(NotFound):
    """There is no such invitation, or it was used or revoked, or has expired; ask for a new one."""

    problem = "invitation-not-found"


class MemberNotFound(NotFound):
    """There is no such member."""

    problem = "member-not-found"


class ToolsetNotFound(NotFound):
    """There is no such toolset."""

    problem = "toolset-not-found"


class SignInFailed(Unauthorized):
    """Email or password is wrong."""

    problem = "sign-in-failed"


class CsrfFailed(Forbidden):
    """Send the header X-CSRF-Token with the token that signing in gave, from a page of this deployment."""

    problem = "csrf"
    title = "The request may be another page's"


class SignupClosed(Forbidden):
    """Signing up is closed here; ask who runs this deployment for an invitation."""

    problem = "signup-closed"


class InsecureTransport(Forbidden):
    """Cookies work over https alone; use https, or POST /v1/tokens and send the token."""

    problem = "insecure-transport"


class PreconditionFailed(TrunklineError):
    """It was changed meanwhile; read it again, then change what it is now."""

    status = 412
    problem = "precondition-failed"


class IdempotencyMismatch(TrunklineError):
    """This Idempotency-Key was used for another request; use a new one."""

    status = 422
    code = INVALID_PARAMS
    problem = "idempotency-mismatch"


class IdempotencyRunning(Conflict):
    """The first request with this Idempotency-Key is not answered yet; try again shortly."""

    problem = "idempotency-running"
