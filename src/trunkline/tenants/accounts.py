"""People's accounts: signing up with a tenant of one's own, signing in, signing out, passwords."""

from __future__ import annotations

from typing import Final, cast

from sqlalchemy import select

from trunkline.audit.record import Recorder
from trunkline.db import Database, task_scope
from trunkline.settings import Settings
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.account_tables import MembershipRow
from trunkline.tenants.keys import Keys
from trunkline.tenants.passwords import Passwords
from trunkline.tenants.roles import Role
from trunkline.tenants.sign_ins import SignIn, SignInKind, SignIns
from trunkline.tenants.tenants import Tenants

_ACCOUNT: Final = task_scope("account")


class Accounts:
    """What people do with their accounts."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        throttle: RedisThrottle,
        tenants: Tenants,
        keys: Keys,
        passwords: Passwords,
        recorder: Recorder,
    ) -> None:
        self._settings = settings
        self._database = database
        self._throttle = throttle
        self._tenants = tenants
        self._keys = keys
        self._passwords = passwords
        self._recorder = recorder
        self.sign_ins = SignIns(settings, database)

    async def find(self, secret: str, kind: SignInKind | None = None) -> SignIn | None:
        """Who is signed in with that secret, if anybody is."""
        return await self.sign_ins.find(secret, kind)

    async def role_at(self, user_id: str, tenant_id: str) -> Role | None:
        """What a user is at a tenant; None for nothing."""
        async with self._database.transaction(_ACCOUNT) as session:
            query = select(MembershipRow.role).where(
                MembershipRow.tenant_id == tenant_id, MembershipRow.user_id == user_id
            )
            return cast("Role | None", await session.scalar(query))
