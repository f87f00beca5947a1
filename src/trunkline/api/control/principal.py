"""Who calls the control plane, and what they may do: settled by route and credential before a route's own work."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import Depends
from starlette.requests import Request

from trunkline.audit.by import By
from trunkline.control_errors import CsrfFailed, InsecureTransport
from trunkline.errors import AddressNotAllowed, Forbidden, TenantNotFound, Unauthorized
from trunkline.settings import Settings
from trunkline.tenants import tokens
from trunkline.tenants.model import Principal, Tenant
from trunkline.tenants.roles import (
    ROLES,
    Permission,
    Role,
    grantable_by_role,
    grantable_by_scopes,
    holders,
    of_scopes,
)
from trunkline.tenants.sign_ins import TOKEN_PREFIX, SignIn

if TYPE_CHECKING:
    from trunkline.api.control.deps import Control

_SAFE: Final = frozenset({"GET", "HEAD"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
WHO: Final = (
    "Sign in and send the cookie, or send 'Authorization: Bearer ' and an API key (tlk_...) or a token of "
    "POST /v1/tokens (tls_...)."
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who calls the control plane, and what they may do at which tenant."""

    by: By
    tenant_id: str = ""
    """Empty for an operator, and for a user outside of a tenant's routes."""
    permissions: frozenset[Permission] = frozenset()
    sign_in: SignIn | None = None
    """None for API keys."""
    role: Role | None = None
    """What the user is at the tenant."""
    key: Principal | None = None
    """The API key, where one calls."""

    def require(self, permission: Permission) -> None:
        """Refuse whoever lacks a permission.

        Raises:
            Forbidden: naming the permission, and who has it.
        """
        if permission not in self.permissions:
            needed = "a key with another scope" if self.key is not None else f"one of: {holders(permission)}"
            raise Forbidden(f"This needs {permission}, and you do not have it; ask {needed}.")

    @property
    def principal(self) -> str:
        """Whom cursors and idempotency keys are bound to: `user:<id>`, `key:<id>`, `operator:<id>`."""
        return f"{self.by.kind}:{self.by.id}"

    @property
    def grantable(self) -> frozenset[str]:
        """The scopes of keys that the caller may issue."""
        if self.key is not None:
            return grantable_by_scopes(self.key.scopes)
        return frozenset() if self.role is None else grantable_by_role(self.role)


async def tenant_actor(request: Request, tenant: str) -> Actor:
    """The caller of a route of the tenant that the path names: a member, or a key of the tenant.

    Raises:
        Unauthorized: nobody, or not any more.
        TenantNotFound: there is no such tenant, or it is nothing to the caller.
        Forbidden: the tenant is suspended.
    """
    control = _control(request)
    token = _bearer(request)
    if token.startswith(tokens.PREFIX):
        return await _key_of(request, token, tenant)
    sign_in = await _signed_in(request, token, USER)
    found = await control.directory.get(tenant)
    role = None
    if found is not None and sign_in.user_id:
        role = await control.accounts.role_at(sign_in.user_id, found.id)
    if found is None or role is None:
        raise TenantNotFound
    _refuse_suspended(request, found)
    return _known(request, Actor(_by(request, sign_in), found.id, ROLES[role], sign_in, role))


async def user_actor(request: Request) -> Actor:
    """A user who is signed in, outside of any tenant.

    Raises:
        Unauthorized: nobody, or not any more.
        Forbidden: an API key, or an operator.
    """
    token = _bearer(request)
    if token.startswith(tokens.PREFIX):
        await _key(request, token)
        raise Forbidden("This address is for people who are signed in, not for API keys.")
    sign_in = await _signed_in(request, token, USER)
    if not sign_in.user_id:
        raise Forbidden("This address is for users; operators have their own under /v1/operator.")
    return _known(request, Actor(_by(request, sign_in), sign_in=sign_in))


async def operator_actor(request: Request) -> Actor:
    """An operator who is signed in.

    Raises:
        Unauthorized: nobody, or not any more.
        Forbidden: anybody else.
    """
    token = _bearer(request)
    if token.startswith(tokens.PREFIX):
        await _key(request, token)
        raise Forbidden("This address is for operators, not for API keys.")
    sign_in = await _signed_in(request, token, OPERATOR)
    if not sign_in.operator_id:
        raise Forbidden("This address is for operators.")
    return _known(request, Actor(_by(request, sign_in), sign_in=sign_in))


async def any_actor(request: Request) -> Actor:
    """Whoever is known here: a user, an operator, or an API key, which then acts for its tenant.

    Raises:
        Unauthorized: nobody, or not any more.
    """
    token = _bearer(request)
    if token.startswith(tokens.PREFIX):
        principal = await _key(request, token)
        return await _key_of(request, token, principal.slug)
    kind: CookieKind = OPERATOR if not token and _cookie(request, USER) == "" else USER
    sign_in = await _signed_in(request, token, kind)
    return _known(request, Actor(_by(request, sign_in), sign_in=sign_in))


def allowed(permission: Permission) -> Any:
    """Depends: the actor, if the route's tenant lets it do that.

    The permission is kept on the route (`route.openapi_extra["x-permission"]`), where tests and the documentation
    find it.
    """

    async def check(request: Request, tenant: str) -> Actor:
        actor = await tenant_actor(request, tenant)
        actor.require(permission)
        return actor

    return Depends(_marked(check, permission))


def allowed_or_self(permission: Permission) -> Any:
    """Depends: the actor, if the route's tenant lets it do that, or the path's `{user}` is who it is."""

    async def check(request: Request, tenant: str, user: str) -> Actor:
        actor = await tenant_actor(request, tenant)
        if (actor.by.kind, actor.by.id) != ("user", user):
            actor.require(permission)
        return actor

    return Depends(_marked(check, permission))


def _marked(depends: Callable[..., Awaitable[Actor]], permission: str) -> Callable[..., Awaitable[Actor]]:
    depends.permission = permission  # type: ignore[attr-defined]
    return depends


USER_ONLY: Final = Depends(_marked(user_actor, "user"))
OPERATOR_ONLY: Final = Depends(_marked(operator_actor, "operator"))
ANYONE_KNOWN: Final = Depends(_marked(any_actor, "known"))

CookieKind = Literal["user", "operator"]
USER: Final = "user"
OPERATOR: Final = "operator"


def cookies_work(settings: Settings) -> bool:
    """Whether cookies may be used at all: over https, or with this machine alone."""
    return settings.public_url.startswith("https:") or settings.public_host in _LOOPBACK


def cookie_name(settings: Settings, kind: CookieKind) -> str:
    """The name of a sign-in's cookie; `__Host-` makes browsers refuse it where it is not Secure (RFC 6265bis)."""
    suffix = "" if kind == USER else "-operator"
    return f"__Host-trunkline{suffix}" if settings.public_url.startswith("https:") else f"trunkline-dev{suffix}"


def set_cookie(settings: Settings, kind: CookieKind, secret: str) -> str:
    """The value of the Set-Cookie header that keeps a sign-in, or with an empty secret ends it."""
    flags = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if settings.public_url.startswith("https:") else "")
    age = settings.sign_in_lifetime if secret else 0
    return f"{cookie_name(settings, kind)}={secret}; Max-Age={age}{flags}"


def csrf_token(secret: str) -> str:
    """What a page must send along with the cookie, in `X-CSRF-Token`; only who has the cookie's answer knows it."""
    made = hmac.new(secret.encode(), b"csrf", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def address_of(request: Request) -> str:
    """The client's address, as the proxies that are trusted tell it."""
    found: str = request.scope["state"]["address"]
    return found


def by_nobody(request: Request) -> By:
    """Somebody who has not said who they are."""
    return By("public", "", address_of(request))


def sign_in_secret(request: Request, kind: CookieKind = USER) -> str:
    """The secret that the caller is signed in with."""
    return _bearer(request) or _cookie(request, kind)


async def _signed_in(request: Request, token: str, kind: CookieKind) -> SignIn:
    if token and not token.startswith(TOKEN_PREFIX):
        raise Unauthorized(WHO)
    secret = token
    if not token:
        secret = _cookie(request, kind)
        if secret:
            _check_page(request, secret)
    if not secret:
        raise Unauthorized(WHO)
    found = await _control(request).accounts.find(secret, "token" if token else "cookie")
    if found is None:
        raise Unauthorized("This sign-in has ended; sign in again.")
    return found


def _check_page(request: Request, secret: str) -> None:
    """Refuse what another page may have made the browser send: a cookie comes along by itself.

    Raises:
        InsecureTransport: anybody on the way could read the cookie.
        CsrfFailed: it changes something, and does not prove that it comes from a page of ours.
    """
    settings = _control(request).settings
    if not cookies_work(settings):
        raise InsecureTransport
    if request.method in _SAFE:
        return
    origin = request.headers.get("origin")
    sent = request.headers.get("x-csrf-token", "")
    if origin not in {None, settings.public_origin}:
        raise CsrfFailed
    if not sent.isascii() or not hmac.compare_digest(sent, csrf_token(secret)):
        raise CsrfFailed


async def _key(request: Request, token: str) -> Principal:
    """The principal of an API key, whichever tenant's it is."""
    slug = tokens.read_slug(token)
    if slug is None:
        raise Unauthorized("The API key is not valid; issue a new one.")
    principal = await _control(request).verifier.authenticate(token, slug)
    if not principal.allows(request.scope["state"]["certain"]):
        raise AddressNotAllowed
    _control(request).note_use(principal.key_id)
    return principal


async def _key_of(request: Request, token: str, slug: str) -> Actor:
    principal = await _key(request, token)
    found = await _control(request).directory.get(slug) if principal.slug == slug else None
    if found is None:
        raise TenantNotFound
    if found.id != principal.tenant_id:
        raise Unauthorized("The API key is not valid; issue a new one.")
    if found.status != "active":
        raise Forbidden("This tenant is suspended.")
    by = By("key", principal.key_id, address_of(request))
    return _known(request, Actor(by, found.id, of_scopes(principal.scopes), key=principal))


def _known(request: Request, actor: Actor) -> Actor:
    """The actor, who has an allowance of requests of its own from now on."""
    request.app.state.allowances.note(dict(request.scope["headers"]), actor.principal)
    return actor


def _refuse_suspended(request: Request, tenant: Tenant) -> None:
    if tenant.status != "active" and request.method not in _SAFE:
        raise Forbidden("This tenant is suspended: nothing can be changed; ask who runs this deployment.")


def _by(request: Request, sign_in: SignIn) -> By:
    address = address_of(request)
    return (
        By("operator", sign_in.operator_id, address) if sign_in.operator_id else By("user", sign_in.user_id, address)
    )


def _bearer(request: Request) -> str:
    """The bearer token (RFC 6750, section 2.1); empty where there is no Authorization header at all.

    Raises:
        Unauthorized: there is one, and it says nothing of use: no other way in is tried then.
    """
    header = request.headers.get("authorization")
    if header is None:
        return ""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized(WHO)
    return token.strip()


def _cookie(request: Request, kind: CookieKind) -> str:
    return request.cookies.get(cookie_name(_control(request).settings, kind), "")


def _control(request: Request) -> Control:
    found: Control = request.app.state.control
    return found
