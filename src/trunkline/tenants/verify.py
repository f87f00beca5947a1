"""Who calls: an API key becomes a principal, or is refused."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from jwt.types import Options

from trunkline.db import Database, task_scope
from trunkline.errors import Unauthorized, Unavailable
from trunkline.settings import Settings
from trunkline.streams.revocations import Revocations
from trunkline.tenants import tokens
from trunkline.tenants.addresses import networks_of
from trunkline.tenants.keys import load_revocations
from trunkline.tenants.limits import limits_of
from trunkline.tenants.model import Principal
from trunkline.tenants.signing import Keyring, VerificationKey

LEEWAY = 30.0
"""Seconds that the clock of the process that issued a key may be ahead of ours."""
MOST_KNOWN = 20_000
"""Tokens remembered as verified."""
REFRESH_INTERVAL = 30.0
"""Seconds between two calls of `Verifier.refresh`; within them even a lost announcement is made good."""
_KID_REFRESH_PAUSE = 5.0
"""Seconds between two looks for signing keys that tokens name and nobody knows: tokens are free to make."""

_HEX_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_INVALID = "This API key is not valid."
# The library reads the clock of this process, which may be wrong: times are compared here.
_CHECKS: Options = {
    "require": ["iss", "aud", "exp", "iat", "jti"],
    "strict_aud": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


def own_clock() -> float:
    """The time of this process, for those that read no other."""
    return time.time()


class UnknownSigningKey(Unauthorized):
    """This API key is not valid."""


class Verifier:
    """Verifies keys by their signature alone; no store is asked about a key whose signing key is known.

    A token that was verified once is remembered until it expires or its signing key changes; its expiry and its
    revocation are looked at in every call all the same.
    """

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        revocations: Revocations,
        database: Database | None = None,
        clock: Callable[[], float] = own_clock,
    ) -> None:
        self.now = clock
        """The time by which keys expire and are revoked, in epoch seconds: one for all pods."""
        self._settings = settings
        self._keyring = keyring
        self._revocations = revocations
        self._database = database
        self._known: OrderedDict[str, Principal] = OrderedDict()
        self._revoked: dict[str, float] = {}
        self._announced: dict[str, float] = {}
        self._refreshing = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._look_failed = False

    def verify(self, token: str, slug: str) -> Principal:
        """The principal of `token` at tenant `slug`, from what this process knows.

        Whether the tenant still is the one that issued the key is the caller's to compare (`Principal.tenant_id`).

        Raises:
            UnknownSigningKey: it names a signing key that this process does not know.
            Unauthorized: with one sentence that says why and repeats nothing of the token.
        """
        now = self.now()
        principal = self._known.get(token)
        if principal is None:
            principal = self._remember(token, self._open(token, slug))
        else:
            self._known.move_to_end(token)
        if principal.expires_at <= now:
            self._known.pop(token, None)
            raise Unauthorized("This API key has expired; issue a new one.")
        if principal.slug != slug:
            raise Unauthorized("This API key belongs to another tenant.")
        if principal.key_id in self._revoked and self._revoked[principal.key_id] <= now:
            raise Unauthorized("This API key was revoked; issue a new one.")
        return principal

    async def authenticate(self, token: str, slug: str) -> Principal:
        """Like `verify`; where the signing key is unknown, look for it before refusing, every few seconds at most.

        Raises:
            Unauthorized: with one sentence that says why and repeats nothing of the token.
            Unavailable: the signing key is unknown, and neither store can be asked.
        """
        try:
            return self.verify(token, slug)
        except UnknownSigningKey:
            await self._look_for_signing_keys()
        try:
            return self.verify(token, slug)
        except UnknownSigningKey:
            if self._look_failed:
                raise Unavailable("API keys cannot be checked at the moment; try again.", retry_after=2) from None
            raise

    def revoke(self, key_id: str, at: float) -> None:
        """Refuse this key from `at` (epoch seconds) on; the earlier of two times counts."""
        _add_earlier(self._revoked, key_id, at)
        _add_earlier(self._announced, key_id, at)

    def is_revoked(self, key_id: str) -> bool:
        """Whether the key is refused now; for what was opened with it and is open still."""
        at = self._revoked.get(key_id)
        return at is not None and at <= self.now()

    def good_until(self, key_id: str, kid: str) -> float:
        """The epoch seconds from which the key is refused, its own expiry aside, or what its signing key signed.

        Args:
            key_id: The key's id.
            kid: The signing key's id, of which nothing is accepted where it is unknown; empty for public access.
        """
        revoked = self._revoked.get(key_id, math.inf)
        if not kid:
            return revoked
        signing = self._keyring.get(kid)
        return 0.0 if signing is None else min(revoked, signing.retired_at)

    async def refresh(self) -> None:
        """Load signing keys and revocations from Postgres and Redis, whichever answer.

        Call it at the start, every `REFRESH_INTERVAL` seconds, whenever announcements may have been missed, and when
        signing keys changed.

        Raises:
            Unavailable: neither answers; what was known stays.
        """
        async with self._refreshing:
            self._announced = {}
            in_redis = await self._from_redis()
            for key_id, at in (in_redis or {}).items():
                _add_earlier(self._revoked, key_id, at)  # at once: Postgres may take its time
            await self._refresh_keyring()
            await self._refresh_revocations(in_redis)

    async def _refresh_keyring(self) -> None:
        changed = await self._keyring.refresh()
        if changed:  # the others stay: to verify all of them again would cost 0.1 ms each, in one moment
            for token in [token for token, known in self._known.items() if known.kid in changed]:
                del self._known[token]

    async def _refresh_revocations(self, in_redis: Mapping[str, float] | None) -> None:
        stored = await self._from_postgres()
        if in_redis is None and stored is None:
            raise Unavailable("Revoked API keys cannot be loaded; try again later.", retry_after=2)
        # Postgres knows all of them but those of emergencies, which Redis alone may know. Without one of the two,
        # what was known must stay; with both, what has expired may go.
        fresh = dict(self._revoked) if stored is None or in_redis is None else {}
        for source in (stored or {}, in_redis or {}, self._announced):
            for key_id, at in source.items():
                _add_earlier(fresh, key_id, at)
        self._revoked = fresh

    async def _from_redis(self) -> dict[str, float] | None:
        try:
            return await self._revocations.all()
        except Unavailable:
            return None

    async def _from_postgres(self) -> dict[str, float] | None:
        if self._database is None:
            return None
        try:
            return await self._database.look(load_revocations, scope=task_scope("verify"))
        except Unavailable:
            return None

    async def _look_for_signing_keys(self) -> None:
        async with self._looking:
            if time.monotonic() - self._looked_at < _KID_REFRESH_PAUSE:
                return
            try:
                await self._refresh_keyring()
                self._look_failed = False
            except Unavailable:
                self._look_failed = True
            self._looked_at = time.monotonic()

    def _remember(self, token: str, principal: Principal) -> Principal:
        self._known[token] = principal
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return principal

    def _open(self, token: str, slug: str) -> Principal:
        """Check everything about a token that does not change: its form, signature and claims."""
        if not token.startswith(tokens.PREFIX):
            raise Unauthorized(f"An API key begins with {tokens.PREFIX}; this is none.")
        key = self._signing_key(token)
        if key is None:
            raise Unauthorized(_INVALID)
        try:
            claims = jwt.decode(
                token.removeprefix(tokens.PREFIX),
                key.key,
                algorithms=[key.algorithm],
                issuer=self._settings.public_url,
                audience=self._settings.tenant_url(slug),
                options=_CHECKS,
            )
        except jwt.InvalidAudienceError as error:
            raise Unauthorized("This API key belongs to another tenant.") from error
        except jwt.InvalidIssuerError as error:
            raise Unauthorized("This API key was issued by another deployment, or under another URL.") from error
        except jwt.PyJWTError as error:
            raise Unauthorized(_INVALID) from error
        if not _is_issued(claims, self.now()):
            raise Unauthorized(_INVALID)
        return _principal(claims, slug, key)

    def _signing_key(self, token: str) -> VerificationKey | None:
        """Our own key that must have signed this; None if the token's form is not that of a key of ours.

        Raises:
            UnknownSigningKey: the form is right, and the key is not known here.
        """
        header = tokens.read_header(token)
        if header is None or "kid" not in header:
            return None
        key = self._keyring.get(header["kid"])
        if key is None:
            raise UnknownSigningKey
        return key if header.get("alg") == key.algorithm else None


def _is_issued(claims: dict[str, Any], now: float) -> bool:
    """Whether what the claims say of time can be; that a key has expired is found in every call."""
    times = (claims["exp"], claims["iat"], claims.get("nbf", 0))
    return all(type(each) in {int, float} for each in times) and max(times[1:]) <= now + LEEWAY


def _principal(claims: dict[str, Any], slug: str, key: VerificationKey) -> Principal:
    tenant_id, scope, tools = claims.get("tenant"), claims.get("scope"), claims.get("tools")
    key_id, expires_at = claims["jti"], claims["exp"]
    well_formed = (
        isinstance(tenant_id, str)
        and _HEX_ID.fullmatch(tenant_id)
        and claims.get("slug") == slug
        and isinstance(key_id, str)
        and key_id
        and isinstance(scope, str)
        and isinstance(tools, list)
        and all(isinstance(pattern, str) for pattern in tools)
    )
    if not well_formed:
        raise Unauthorized(_INVALID)
    try:
        networks, limits = networks_of(claims.get("net")), limits_of(claims.get("lim"))
    except ValueError:
        raise Unauthorized(_INVALID) from None
    return Principal(
        tenant_id=str(tenant_id),
        slug=slug,
        key_id=key_id,
        scopes=frozenset(str(scope).split()),
        tools=tuple(tools or ()),
        expires_at=min(float(expires_at), key.retired_at),
        networks=networks,
        limits=limits,
        kid=key.kid,
    )


def _add_earlier(revoked: dict[str, float], key_id: str, at: float) -> None:
    known = revoked.get(key_id)
    if known is None or at < known:
        revoked[key_id] = at
