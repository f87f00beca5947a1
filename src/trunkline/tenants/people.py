"""What people give of themselves: email addresses and names, and how often they may try to sign in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, literal, tuple_

from trunkline.errors import UsageError
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.addresses import site_of

LONGEST_EMAIL: Final = 254
"""Characters (RFC 5321, section 4.5.3.1.3, less the brackets)."""
_EMAIL: Final = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class User:
    """A person with an account."""

    id: str
    email: str
    name: str


def check_email(email: str) -> str:
    """The address in lower case, which is how accounts are told apart.

    Raises:
        UsageError: it is not of the form that mail goes to.
    """
    found = email.strip().lower()
    if len(found) > LONGEST_EMAIL or not _EMAIL.fullmatch(found):
        raise UsageError("That is not an email address; write one such as name@example.com.")
    return found


class Doors:
    """How often strangers may try: from one address, and at one account, whether there is such an account or not.

    Raises, from every method:
        TooManyRequests: with the seconds to wait.
        Unavailable: Redis is away: what cannot be counted is not tried.
    """

    def __init__(self, settings: Settings, throttle: RedisThrottle) -> None:
        self._settings = settings
        self._throttle = throttle

    async def sign_in(self, email: str, address: str) -> None:
        """Count one try to prove who one is."""
        await self.operator(address)
        await self.account(email, address)

    async def operator(self, address: str) -> None:
        """Count one try to prove that one is an operator: nobody elsewhere can keep operators out."""
        await self._count("sign-in", site_of(address), self._settings.sign_in_rate, 60)

    async def account(self, email: str, address: str) -> None:
        """Count one try of a password of this account.

        It is the address that is slowed down: whoever guesses from elsewhere keeps nobody out. Many addresses
        together are slowed down much later.
        """
        rate, here = self._settings.account_rate, f"{email} {site_of(address)}"
        await self._count("account", here, rate, 60)
        await self._count("account-hour", here, rate * _HOURLY_HERE, 3_600)
        await self._count("account-anywhere", email, rate * _HOURLY_ANYWHERE, 3_600)

    async def password(self, user_id: str) -> None:
        """Count one try of the password of somebody who is signed in."""
        await self._count("password", user_id, self._settings.account_rate, 60)

    async def sign_up(self, address: str) -> None:
        """Count one tenant that somebody wants to make."""
        await self._count("sign-up", site_of(address), self._settings.signup_rate, 3_600)

    async def code(self, address: str) -> None:
        """Count one try of a secret: a code, an invitation."""
        await self._count("code", site_of(address), self._settings.sign_in_rate, 60)

    async def invite(self, tenant_id: str) -> None:
        """Count one invitation of a tenant."""
        await self._count("invite", tenant_id, _INVITATIONS, 3_600)

    async def _count(self, kind: str, who: str, most: float, seconds: int) -> None:
        await self._throttle.check(kind, who, most / seconds, max(round(most), 1))


_HOURLY_HERE: Final = 4
_HOURLY_ANYWHERE: Final = 20
"""Times the tries of a minute that an hour has: from one address, so that it alone does not use up those of all."""
_INVITATIONS: Final = 20.0
"""Invitations of one tenant in an hour: each is a mail to somebody who may not want it."""

Moment = tuple[datetime, str]
"""Where a page of a list by time begins: behind the item of that time and id."""


def behind(time: Any, identity: Any, after: Moment) -> ColumnElement[bool]:
    """The condition on rows of a list by two columns, time and id, that come after that one."""
    return tuple_(time, identity) > tuple_(literal(after[0], time.type), literal(after[1], identity.type))
