"""The keys that sign: a new one is known everywhere before it signs, and an old one goes when nothing hangs on it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.by import CLI, PLATFORM, By
from trunkline.audit.record import Recorder
from trunkline.db import Database, task_scope, utcnow
from trunkline.errors import Conflict, NotFound, Unavailable, UsageError
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants.announce import Announcer
from trunkline.tenants.signing import (
    add_signing_key,
    encode_keys,
    load_verification_keys,
    newest,
    signing_sealer,
    wait_for_signers,
)
from trunkline.tenants.tables import KeyRow, SigningKeyRow

AHEAD = timedelta(seconds=90)
"""How long a new key is known before it signs: three times as long as a pod takes that heard nothing of it."""
LONGEST_AHEAD = timedelta(days=30)
SETTLED = timedelta(minutes=1)
"""How long a key has signed until the one before may be retired: processes whose clocks are late still use that."""

State = Literal["next", "signs", "verifies", "retired"]


@dataclass(frozen=True, slots=True)
class SigningKeyRecord:
    """What an operator knows of a signing key."""

    kid: str
    created_at: datetime
    not_before: datetime
    """It signs from then on, until a newer one does."""
    retired_at: datetime | None
    """From then on nothing that it signed is accepted."""
    state: State
    live_keys: int
    """API keys that hang on it and are neither expired nor revoked."""


class SigningKeys:
    """What an operator does with signing keys. Each change is one transaction with its event, then told to all pods.

    Raises, from every method:
        Unavailable: Postgres is away.
        StartRefused: SECRET_KEY is missing.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis, recorder: Recorder) -> None:
        self._sealer = signing_sealer(settings)
        self._database = database
        self._announcer = Announcer(redis)
        self._recorder = recorder

    async def list(self) -> tuple[SigningKeyRecord, ...]:
        """All of them, the newest first; those before the first API key are none."""
        async with self._database.transaction(task_scope("operator")) as session:
            return await _records(session)

    async def rotate(self, by: By = CLI, ahead: timedelta = AHEAD) -> SigningKeyRecord:
        """Make a key that signs after `ahead`; until then the one before does, and its API keys stay good.

        Should Redis be away, pods learn of it when they next read the database, every half minute.

        Raises:
            UsageError: `ahead` is negative, or longer than 30 days.
        """
        if not timedelta(0) <= ahead <= LONGEST_AHEAD:
            raise UsageError("A signing key is made 0 seconds to 30 days ahead of its use.")
        async with self._database.transaction(task_scope("operator")) as session:
            row = await add_signing_key(session, self._sealer, ahead)
            record = await _record(session, row.kid)
            version, keys = await load_verification_keys(session)
            detail = {"not_before": row.not_before.isoformat()}
            await self._recorder.record(session, PLATFORM, "signing.rotate", by=by, target=row.kid, detail=detail)
        with suppress(Unavailable):
            await self._announcer.signing_keys_changed(version, encode_keys(keys))
        return record

    async def retire(
        self, kid: str, by: By = CLI, at: datetime | None = None, *, force: bool = False
    ) -> SigningKeyRecord:
        """Accept nothing from `at` (now) on that the key signed. A retirement is never undone and never made later.

        Raises:
            NotFound: there is no such key.
            Conflict: it is the one that signs; or API keys hang on it that are in use, or may in a moment, since the
                next one has only just begun to sign, and it is not `force`.
        """
        async with self._database.transaction(task_scope("operator")) as session:
            await wait_for_signers(session)
            row = await session.get(SigningKeyRow, kid, with_for_update=True)
            if row is None:
                raise NotFound(f"There is no signing key {kid!r}.")
            before = await _record(session, kid)
            if before.state == "signs":
                raise Conflict("This key signs; rotate first, and retire it once the new one does.")
            if before.live_keys and not force:
                raise Conflict(
                    f"{before.live_keys} API keys hang on this key and would stop working; rotate them, or use force."
                )
            signing = await newest(session)
            if before.state == "verifies" and not force and signing and signing.not_before > utcnow() - SETTLED:
                raise Conflict("The next key has signed for less than a minute; wait that long, or use force.")
            when = utcnow() if at is None else at
            changed = row.retired_at is None or when < row.retired_at
            if changed:
                row.retired_at = when
            await session.flush()
            record = await _record(session, kid)
            version, keys = await load_verification_keys(session)
            if changed:
                detail = {"retired_at": when.isoformat(), "live_keys": before.live_keys}
                await self._recorder.record(session, PLATFORM, "signing.retire", by=by, target=kid, detail=detail)
        await self._announcer.signing_keys_changed(version, encode_keys(keys))
        return record


async def _records(session: AsyncSession) -> tuple[SigningKeyRecord, ...]:
    signing = await newest(session)
    live = await session.execute(select(KeyRow.kid, func.count()).where(_live()).group_by(KeyRow.kid))
    counts: dict[str | None, int] = {kid: count for kid, count in live}  # noqa: C416 - a row is no pair to mypy
    rows = await session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.not_before.desc(), SigningKeyRow.kid))
    now = utcnow()
    return tuple(
        SigningKeyRecord(
            row.kid,
            row.created_at,
            row.not_before,
            row.retired_at,
            _state(row, signing, now),
            # Of API keys from before that was noted, any signing key may be the one.
            counts.get(row.kid, 0) + (counts.get(None, 0) if row.not_before <= now else 0),
        )
        for row in rows
    )


async def _record(session: AsyncSession, kid: str) -> SigningKeyRecord:
    return next(record for record in await _records(session) if record.kid == kid)


def _live() -> ColumnElement[bool]:
    now = utcnow()
    return and_(KeyRow.expires_at > now, or_(KeyRow.revoked_at.is_(None), KeyRow.revoked_at > now))


def _state(row: SigningKeyRow, signing: SigningKeyRow | None, now: datetime) -> State:
    if row.retired_at is not None and row.retired_at <= now:
        return "retired"
    if signing is not None and row.kid == signing.kid:
        return "signs"
    return "next" if row.not_before > now else "verifies"
