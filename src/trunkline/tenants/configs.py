"""What tenants configure of their toolsets: checked against the toolset's schema, its secrets kept encrypted.

`Configs` writes, in API pods and on the command line, and never decrypts anything; `ConfigReader` (in
`trunkline.tenants.config_reader`) reads, in workers.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import jsonschema_rs
import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.audit.by import By
from trunkline.audit.record import Recorder
from trunkline.control_errors import FieldError, PreconditionFailed, ToolsetNotFound, ValidationFailed
from trunkline.db import Database, task_scope, tenant_scope, utcnow
from trunkline.errors import TenantNotFound
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.tenants import hosted, snapshot
from trunkline.tenants.announce import Announcer
from trunkline.tenants.hosted import HostedToolset
from trunkline.tenants.sealing import Sealer
from trunkline.tenants.tables import TenantRow, ToolsetRow
from trunkline.tenants.tenants import next_version, toolsets_of

LARGEST_CONFIG = 16_384
"""Bytes of a configuration as JSON, secrets included."""
DEEPEST = 32
"""Levels of lists and objects in it."""
PURPOSE = "toolset secret"
"""What the secrets are sealed for."""
MOST_ERRORS = 20
"""Fields of which one refusal tells."""


class ToolsetConfig(NamedTuple):
    """A tenant's configuration of a toolset, as far as anybody may read it."""

    config: dict[str, Any]
    """Without the secrets."""
    secrets: tuple[str, ...]
    """The secret fields that are set."""
    version: int
    """Grows with every change; 0 where nothing is configured."""
    schema: Mapping[str, Any]


Change = Callable[[AsyncSession, ToolsetRow, int], Awaitable[dict[str, object]]]
"""Changes a toolset's row to the version given; what the audit log says of it."""


def secret_names(schema: Mapping[str, Any]) -> frozenset[str]:
    """The top-level fields that are secrets: `writeOnly`, or so beside null."""
    return frozenset(
        name
        for name, field in schema.get("properties", {}).items()
        if any(way.get("writeOnly") is True for way in (field, *field.get("anyOf", ())))
    )


def record_of(toolset: str, field: str, version: int) -> str:
    """What a sealed secret is bound to, beside its tenant."""
    return f"{toolset}.{field}.{version}"


def check(schema: Mapping[str, Any], values: Mapping[str, Any], kept: Collection[str] = ()) -> None:
    """Hold a configuration against its schema; `kept` secrets are there already, and nobody here can read them.

    Raises:
        ValidationFailed: it does not fit. The errors name fields and never a value.
    """
    fields = {**schema.get("properties", {}), **dict.fromkeys(kept, True)}
    validator = jsonschema_rs.validator_for({**schema, "properties": fields}, offline=True, mask="the value")
    found = islice(validator.iter_errors({**values, **dict.fromkeys(kept, "")}), MOST_ERRORS)
    errors = [FieldError(_pointer(error.instance_path), _sentence(error.message)) for error in found]
    if errors:
        first = f"{errors[0].pointer}: {errors[0].detail}"
        raise ValidationFailed(f"The configuration does not fit the toolset's schema. {first}", errors)


def check_form(values: Mapping[str, Any]) -> None:
    """Refuse what no configuration may be, whatever its schema says.

    Raises:
        ValidationFailed: it is too large or too deep, or holds what Postgres keeps in no JSON.
    """
    waiting: list[tuple[object, int]] = [(values, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValidationFailed(f"A configuration has {DEEPEST} levels at most.")
        if isinstance(value, Mapping):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, str) and "\0" in value:
            raise ValidationFailed("A configuration holds no NUL character.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValidationFailed("A configuration holds no infinite number.")
    if len(orjson.dumps(values)) > LARGEST_CONFIG:
        raise ValidationFailed(f"A configuration has {LARGEST_CONFIG} bytes at most.")


def _pointer(path: Iterable[str | int]) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "".join(f"/{step}" for step in ("config", *steps))


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:]}."


class Configs:
    """Configurations of tenants' toolsets. Each change is one transaction, and then told to every pod.

    Raises, from every method that takes a toolset:
        ToolsetNotFound: the tenant never had it on, or there is nothing in it to configure.
        Unavailable: Postgres is away and nothing has changed, or Redis is and the sentence says what is stored.
    """

    def __init__(self, settings: Settings, database: Database, redis: Redis, recorder: Recorder) -> None:
        self._database = database
        self._announcer = Announcer(redis)
        self._recorder = recorder
        self._secret = settings.root

    @cached_property
    def _sealer(self) -> Sealer:
        return Sealer(self._secret, PURPOSE)

    async def hosted(self) -> tuple[HostedToolset, ...]:
        """What tenants can switch on, by name."""
        async with self._database.transaction(task_scope("catalog")) as session:
            return await hosted.listed(session)

    async def check_hosted(self, toolset: str) -> None:
        """Refuse a name that no worker hosts: a tenant's names stay for good, so there must be a bound to them."""
        async with self._database.transaction(task_scope("catalog")) as session:
            await hosted.find(session, toolset)

    async def toolsets(self, tenant_id: str) -> list[ToolsetRow]:
        """What the tenant has or had switched on, in the order of first switching on."""
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            return await toolsets_of(session, tenant_id)

    async def get(self, tenant_id: str, toolset: str) -> ToolsetConfig:
        """The configuration, its secrets by name alone."""
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            schema = await _schema(session, toolset)
            row = await _row(session, tenant_id, toolset)
            return _readable(row, schema)

    async def put(
        self, tenant_id: str, toolset: str, values: Mapping[str, Any], by: By, if_version: int | None = None
    ) -> ToolsetConfig:
        """Replace the configuration; a secret that is not among the values stays as it is, one that is null goes.

        Args:
            tenant_id: The tenant's id.
            toolset: The toolset's name.
            values: All fields, by the names in the schema.
            by: Who configures it.
            if_version: Change nothing unless this is the version now.

        Raises:
            ValidationFailed: the values are too large, or do not fit the schema.
            PreconditionFailed: it has another version.
        """
        check_form(values)

        async def change(session: AsyncSession, row: ToolsetRow, version: int) -> dict[str, object]:
            schema = await _schema(session, toolset)
            secret = secret_names(schema)
            kept = {name: sealed for name, sealed in row.secrets.items() if name in secret - set(values)}
            given = {name: values[name] for name in secret & set(values) if values[name] is not None}
            row.config = {name: value for name, value in values.items() if name not in secret}
            check(schema, {**row.config, **given}, kept)
            sealed = {name: self._seal(tenant_id, toolset, name, version, value) for name, value in given.items()}
            row.secrets = kept | sealed
            row.config_version = version
            return {"fields": sorted(row.config), "secrets_set": sorted(given), "secrets_kept": sorted(kept)}

        return await self._change(tenant_id, toolset, change, by, if_version)

    async def delete(self, tenant_id: str, toolset: str, by: By, if_version: int | None = None) -> None:
        """Take the configuration away, with its secrets: the toolset's own defaults hold again.

        Raises:
            PreconditionFailed: it has another version.
        """

        async def change(session: AsyncSession, row: ToolsetRow, version: int) -> dict[str, object]:
            row.config, row.secrets, row.config_version = {}, {}, 0
            return {"fields": [], "secrets_set": [], "secrets_kept": []}

        await self._change(tenant_id, toolset, change, by, if_version)

    async def _change(
        self, tenant_id: str, toolset: str, change: Change, by: By, if_version: int | None
    ) -> ToolsetConfig:
        async with self._database.transaction(tenant_scope(tenant_id)) as session:
            tenant = await session.scalar(select(TenantRow).where(TenantRow.id == tenant_id).with_for_update())
            if tenant is None:
                raise TenantNotFound
            schema = await _schema(session, toolset)
            row = await _row(session, tenant_id, toolset)
            if if_version is not None and row.config_version != if_version:
                raise PreconditionFailed(f"The configuration has version {row.config_version} now; read it again.")
            tenant.version = await next_version(session, max(tenant.version, row.config_version))
            tenant.updated_at = utcnow()
            detail = await change(session, row, tenant.version)
            await session.flush()
            stored = snapshot.encode(tenant, await toolsets_of(session, tenant_id))
            detail["version"] = row.config_version
            await self._recorder.record(session, tenant_id, "toolset.configure", by=by, target=toolset, detail=detail)
        await self._announcer.configured(tenant_id, toolset, tenant.version, encode(row, tenant.version))
        await self._announcer.tenant_changed(tenant.slug, tenant_id, tenant.version, stored)
        return _readable(row, schema)

    def _seal(self, tenant_id: str, toolset: str, field: str, version: int, value: object) -> dict[str, object]:
        sealed = self._sealer.seal(orjson.dumps(value), tenant_id, record_of(toolset, field, version))
        return {"v": version, "s": base64.b64encode(sealed).decode()}


def encode(row: ToolsetRow, version: int) -> bytes:
    """The configuration of that version as workers read it, its secrets sealed; null where it was taken away."""
    config = row.config if row.config_version else None
    return orjson.dumps({"version": version, "config": config, "secrets": row.secrets})


async def load(session: AsyncSession, tenant_id: str, toolset: str) -> bytes | None:
    """The configuration as it is stored now, for workers; None where nothing is configured."""
    row = await session.get(ToolsetRow, (tenant_id, toolset))
    return None if row is None or not row.config_version else encode(row, row.config_version)


async def _schema(session: AsyncSession, toolset: str) -> Mapping[str, Any]:
    schema = (await hosted.find(session, toolset)).schema
    if schema is None:
        raise ToolsetNotFound(f"There is nothing to configure in the toolset {toolset!r}.")
    return schema


async def _row(session: AsyncSession, tenant_id: str, toolset: str) -> ToolsetRow:
    row = await session.get(ToolsetRow, (tenant_id, toolset))
    if row is None:
        raise ToolsetNotFound(f"Switch the toolset {toolset!r} on first; then it can be configured.")
    return row


def _readable(row: ToolsetRow, schema: Mapping[str, Any]) -> ToolsetConfig:
    secret = secret_names(schema)  # perhaps more than there were when it was configured
    public = {name: value for name, value in row.config.items() if name not in secret}
    return ToolsetConfig(public, tuple(sorted(row.secrets)), row.config_version, schema)
