"""Answers of requests that make something, kept for a day so that sending one again makes nothing more.

A request's `Idempotency-Key` is claimed before it runs. It belongs to a principal of a tenant: nobody meets another.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from datetime import timedelta
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple, NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr
from sqlalchemy import Interval, delete, func, select, type_coerce, update
from sqlalchemy.dialects.postgresql import insert
from uuid_utils import uuid7

from trunkline.control_errors import IdempotencyMismatch, IdempotencyRunning
from trunkline.db import Database, Scope, task_scope, tenant_scope
from trunkline.errors import StartRefused, Unavailable
from trunkline.tenants.sealing import Sealer
from trunkline.tenants.tables import IdempotencyRow

KEPT = timedelta(hours=24)
"""How long an answer is given again."""
RUNNING = timedelta(seconds=60)
"""How long a request without an answer is taken to be running still."""
FORGET_EVERY = 3600.0
"""Seconds between two looks for what is older than that."""
LONGEST_KEY = 128
"""Characters of an Idempotency-Key."""
_AGE = type_coerce(func.now() - IdempotencyRow.created_at, Interval)


class Claim(NamedTuple):
    """The right to run a request, which nobody else with its key has meanwhile."""

    id: str
    tenant_id: str
    """Empty where the request is no tenant's."""
    record: str
    """What the stored answer is bound to."""


class Replay(NamedTuple):
    """The answer that the request had before."""

    status: int
    body: bytes


class IdempotencyStore:
    """Who runs a request, and what came of it.

    Guarantees: of all who claim the same key at once, one may run the request; an answer that was kept is given to
    the same principal of the same tenant alone, for the same request alone.

    Raises, from every method:
        Unavailable: Postgres is away.
    """

    def __init__(self, database: Database, secret: SecretStr) -> None:
        self._database = database
        self._secret = secret

    @cached_property
    def _sealer(self) -> Sealer:
        return Sealer(self._secret, "idempotency")

    @cached_property
    def _request_key(self) -> bytes:
        """Of the codes of requests: their bodies may hold passwords, which a plain hash would let be guessed."""
        derive = HKDF(SHA256(), 32, salt=None, info=b"trunkline idempotency request")
        return derive.derive(self._secret.get_secret_value().encode())

    async def claim(self, tenant_id: str, principal: str, key: str, request: bytes) -> Claim | Replay:
        """Take the key for a request, or find what it was answered.

        Args:
            tenant_id: The tenant that the request is about; empty for none.
            principal: Who sends it.
            key: The Idempotency-Key.
            request: All that makes the request what it is: method, path and body.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            IdempotencyRunning: the first request is running, or its end is not known.
        """
        digest, wanted = sha256(key.encode()).digest(), hmac.digest(self._request_key, request, "sha256")
        record = f"{principal} {digest.hex()}"
        mine = (
            IdempotencyRow.tenant_id.is_not_distinct_from(tenant_id or None),
            IdempotencyRow.principal == principal,
            IdempotencyRow.digest == digest,
        )
        row = IdempotencyRow(id=uuid7().hex, tenant_id=tenant_id or None, principal=principal, digest=digest)
        values = {"id": row.id, "tenant_id": row.tenant_id, "principal": principal, "digest": digest}
        async with self._database.transaction(_scope(tenant_id)) as session:
            await session.execute(delete(IdempotencyRow).where(*mine, _AGE > KEPT))
            taken = await session.scalar(
                insert(IdempotencyRow)
                .values(**values, request_hash=wanted)
                .on_conflict_do_nothing()
                .returning(IdempotencyRow.id)
            )
            if taken is not None:
                return Claim(row.id, tenant_id, record)
            first = (await session.execute(select(IdempotencyRow, _AGE).where(*mine))).one_or_none()
        if first is None:  # the first request has just failed and given the key back
            raise IdempotencyRunning(retry_after=1)
        row, age = first
        return self._found(row, age, wanted, tenant_id, record)

    def _found(self, row: IdempotencyRow, age: timedelta, wanted: bytes, tenant_id: str, record: str) -> Replay:
        if row.request_hash != wanted:
            raise IdempotencyMismatch
        if row.status is None or row.response is None:
            if age < RUNNING:
                raise IdempotencyRunning(retry_after=1)
            raise IdempotencyRunning(
                "The first request with this Idempotency-Key had no end; look whether what it makes is there, and "
                "use a new key if not."
            )
        try:
            return Replay(row.status, self._sealer.open(row.response, tenant_id or "platform", record))
        except StartRefused as error:
            raise IdempotencyRunning("The first answer cannot be read any more; use a new key.") from error

    async def complete(self, claim: Claim, status: int, body: bytes) -> None:
        """Keep the answer, encrypted: it may hold what is shown once."""
        sealed = self._sealer.seal(body, claim.tenant_id or "platform", claim.record)
        async with self._database.transaction(_scope(claim.tenant_id)) as session:
            answered = update(IdempotencyRow).where(IdempotencyRow.id == claim.id)
            await session.execute(answered.values(status=status, response=sealed))

    async def release(self, claim: Claim) -> None:
        """Give the key back: the request has made nothing, and may be tried again."""
        async with self._database.transaction(_scope(claim.tenant_id)) as session:
            await session.execute(delete(IdempotencyRow).where(IdempotencyRow.id == claim.id))


async def forget(database: Database) -> None:
    """Delete the answers that are not given any more."""
    async with database.transaction(task_scope("upkeep")) as session:
        await session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < func.now() - KEPT))


async def keep_forgetting(database: Database) -> NoReturn:
    """Delete them from time to time, until cancelled."""
    while True:
        with contextlib.suppress(Unavailable):
            await forget(database)
        await asyncio.sleep(FORGET_EVERY)


def _scope(tenant_id: str) -> Scope:
    return tenant_scope(tenant_id) if tenant_id else task_scope("account")
