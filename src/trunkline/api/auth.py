"""Station 1, accept: who calls. By the route and the key, before anything of the body is read."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from trunkline.api.heads import Head
from trunkline.api.http import Request
from trunkline.api.proxies import Proxies
from trunkline.api.ratelimit import RateLimit
from trunkline.envelope import Caller
from trunkline.errors import AddressNotAllowed, Forbidden, TenantNotFound, TooManyRequests, Unauthorized
from trunkline.settings import Settings
from trunkline.streams.bounds import Bounds, Share
from trunkline.streams.sessions import Owner, SessionTransport, most_sessions
from trunkline.tenants.addresses import networks_of
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.limits import NO_QUOTAS, limits_of
from trunkline.tenants.model import MESSAGE_SCOPES, Principal, Tenant, public_principal
from trunkline.tenants.verify import UnknownSigningKey, Verifier

_MOST_REMEMBERED = 20_000
_SWEPT_BY = 60.0
"""Seconds after its latest deadline by which a call is surely answered."""
PUBLIC = "public"
"""What owns the sessions of callers without a key; no key id looks like it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose right to be here was checked, in the forms that the message path needs."""

    tenant: Tenant
    principal: Principal
    owner: Owner
    caller: bytes
    """The principal as it travels to the worker."""
    bounds: Bounds
    told: RateLimit
    """What answers say of the bounds."""

    @property
    def most_sessions(self) -> str:
        """Most sessions of its tenant and its key, as who opens one says it."""
        own = self.principal.limits
        return most_sessions(self.tenant.limits.sessions, None if own is None else own.sessions)

    @classmethod
    def of(
        cls, tenant: Tenant, principal: Principal, transport: SessionTransport = "sse", longest: float = 600.0
    ) -> Identity:
        """Put together what follows from a tenant, a caller and the transport it has chosen.

        Args:
            tenant: Where the caller is.
            principal: Who it is.
            transport: How it speaks to us.
            longest: Seconds that a call may take at most.
        """
        expires = None if math.isinf(principal.expires_at) else int(principal.expires_at)
        caller = Caller(
            tenant.id, tenant.slug, principal.key_id, tuple(sorted(principal.scopes)), principal.tools, expires
        )
        bounds = _bounds(tenant, principal, longest)
        own = NO_QUOTAS if principal.limits is None else principal.limits.quotas
        return cls(
            tenant,
            principal,
            Owner(tenant.id, principal.key_id or PUBLIC, transport),
            caller.encode(),
            bounds,
            RateLimit(bounds, tenant.quotas, own),
        )


def _bounds(tenant: Tenant, principal: Principal, longest: float) -> Bounds:
    limits, own = tenant.limits, principal.limits
    share = None
    if own is not None:
        share = Share(principal.key_id, own.rate, own.burst, own.in_flight, own.quotas)
    life_ms = int((longest + _SWEPT_BY) * 1000)
    return Bounds.of(limits.rate, limits.burst, limits.in_flight, quota=tenant.quotas, share=share, life_ms=life_ms)


class Authenticator:
    """Finds the tenant that a path names and the principal that a key stands for.

    Raises, from `identify`:
        TenantNotFound: no tenant has that name.
        Unauthorized: no key, or one that is not valid here.
        Forbidden: the tenant is suspended, or the key is for the control plane alone.
        AddressNotAllowed: the key may not be used from there.
        TooManyRequests: this address calls public tenants faster than it may.
        Unavailable: what must be known of the tenant is nowhere to be had.
    """

    def __init__(
        self,
        directory: TenantDirectory,
        verifier: Verifier,
        settings: Settings,
        note_use: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._verifier = verifier
        self._note_use = note_use
        self._proxies = Proxies(settings.trusted_proxies)
        self._longest = settings.call_timeout_max
        self._public = settings.public_rate, settings.public_burst
        self._throttle = Throttle("This address sends faster than a public tenant allows.")
        self._identities: OrderedDict[tuple[str, str, str], Identity] = OrderedDict()

    async def find_tenant(self, slug: str) -> Tenant:
        """The tenant of that name, if it may be used."""
        tenant = self._directory.peek(slug)
        if not isinstance(tenant, Tenant):
            tenant = await self._directory.get(slug)
        if tenant is None:
            raise TenantNotFound
        if tenant.status != "active":
            raise Forbidden("This tenant is suspended.")
        return tenant

    async def identify(self, request: Request, transport: SessionTransport = "sse") -> Identity:
        """Who sends this request, by its Authorization header (RFC 6750, section 2.1)."""
        slug = request.tenant
        tenant = self._directory.peek(slug)
        if not isinstance(tenant, Tenant) or tenant.status != "active":
            tenant = await self.find_tenant(slug)
        scheme, token = request.head.once(_credentials)
        if token and scheme == "bearer":
            try:
                principal = self._verifier.verify(token, slug)
            except UnknownSigningKey:
                await self._verifier.authenticate(token, slug)
                tenant = await self.find_tenant(slug)  # that took its time
                principal = self._verifier.verify(token, slug)
            if principal.networks:
                self._check_address(principal, request)
            self._note_use(principal.key_id)
            return self._identity(tenant, token, principal, transport)
        if scheme or tenant.access != "public":
            raise Unauthorized
        self._throttle.check(request.address(self._proxies), *self._public)
        return self._identity(tenant, "", public_principal(tenant), transport)

    def stand_in(self, identity: Identity) -> bytes:
        """What a one-time ticket of this caller stands for."""
        principal = identity.principal
        return orjson.dumps(
            {
                "key_id": principal.key_id,
                "scopes": sorted(principal.scopes),
                "tools": principal.tools,
                "expires_at": None if math.isinf(principal.expires_at) else principal.expires_at,
                "net": [str(network) for network in principal.networks] or None,
                "lim": None if principal.limits is None else principal.limits.claims(),
                "kid": principal.kid,
            }
        )

    def redeem(self, tenant: Tenant, stands_for: bytes | None, request: Request) -> Identity:
        """The caller that a ticket stands for.

        Raises:
            Unauthorized: there is no such ticket (any more), or its key was revoked or has expired since.
            AddressNotAllowed: its key may not be used from where the request comes.
        """
        if stands_for is None:
            raise Unauthorized("This ticket is unknown, used or expired; get a new one.")
        fields = orjson.loads(stands_for)
        expires = math.inf if fields["expires_at"] is None else fields["expires_at"]
        principal = Principal(
            tenant.id, tenant.slug, fields["key_id"], frozenset(fields["scopes"]), tuple(fields["tools"]), expires,
            networks_of(fields.get("net")), limits_of(fields.get("lim")), fields.get("kid", ""),
        )  # fmt: skip
        self.check_valid(principal)
        self._check_address(principal, request)
        return Identity.of(tenant, principal, longest=self._longest)

    def _check_address(self, principal: Principal, request: Request) -> None:
        if not principal.allows(request.address(self._proxies, certain=True)):
            raise AddressNotAllowed

    def check_valid(self, principal: Principal) -> None:
        """Refuse a principal whose key has expired or was revoked since it was verified.

        Raises:
            Unauthorized: with one sentence that says so.
        """
        if principal.expires_at <= self._verifier.now() or self._verifier.is_revoked(principal.key_id):
            raise Unauthorized("This API key has expired or was revoked; issue a new one.")

    async def check_still(self, identity: Identity) -> None:
        """Refuse a caller who may not be here any more: who calls was settled, and then something was waited for.

        The key is looked at last: what joins the streams before anything else is waited for misses no revocation.

        Raises:
            Unauthorized: the key has expired or was revoked, or the tenant wants one now, or is another one.
            Forbidden: the tenant was suspended.
            TenantNotFound: it was deleted.
            Unavailable: the tenant has changed, and no store can be asked how.
        """
        tenant = identity.tenant
        unchanged = self._directory.peek(tenant.slug) is tenant
        if not unchanged and not authorized(await self.find_tenant(tenant.slug), identity.owner):
            raise Unauthorized
        self.check_valid(identity.principal)

    def _identity(self, tenant: Tenant, token: str, principal: Principal, transport: SessionTransport) -> Identity:
        # Both are the same objects from call to call, until something changes.
        place = (tenant.slug, token, transport)
        known = self._identities.get(place)
        if known is not None and known.tenant is tenant and (known.principal is principal or not token):
            self._identities.move_to_end(place)
            return known
        if principal.tenant_id != tenant.id:
            raise Unauthorized  # the key of a tenant of the same name, deleted since
        if principal.scopes.isdisjoint(MESSAGE_SCOPES):
            raise Forbidden(
                f"This API key is for the control plane; it has none of {', '.join(sorted(MESSAGE_SCOPES))}."
            )
        identity = Identity.of(tenant, principal, transport, self._longest)
        self._identities[place] = identity
        if len(self._identities) > _MOST_REMEMBERED:
            self._identities.popitem(last=False)
        return identity


def _credentials(head: Head) -> tuple[str, str]:
    """The scheme, lower case, and the token."""
    scheme, _, token = head.header(b"authorization").partition(" ")
    return scheme.lower(), token.strip()


def authorized(tenant: Tenant | None, owner: Owner) -> bool:
    """Whether a stream that was opened may stay open, as the tenant is now."""
    if tenant is None or tenant.id != owner.tenant or tenant.status != "active":
        return False
    return owner.principal != PUBLIC or tenant.access == "public"


class Throttle:
    """A rate limit on this pod for each of many, who are told so in one sentence (GCRA)."""

    def __init__(self, sentence: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._sentence = sentence
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()

    def check(self, who: str, rate: float, burst: int) -> None:
        """Count one request, of `rate` a second and `burst` at once.

        Raises:
            TooManyRequests: with the seconds to wait.
        """
        now, interval = self._clock(), 1.0 / rate
        due = max(self._due.pop(who, now), now) + interval
        early = due - now - interval * burst
        if early > 0:
            self._due[who] = due - interval
            raise TooManyRequests(self._sentence, retry_after=early)
        self._due[who] = due
        if len(self._due) > _MOST_REMEMBERED:
            self._due.popitem(last=False)
