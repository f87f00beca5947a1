"""Configurations of toolsets as workers read them: the one place where their secrets are decrypted."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from pydantic import BaseModel, ValidationError

from trunkline.db import Database, tenant_scope
from trunkline.errors import StartRefused, Unavailable
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.snapshots import Snapshots
from trunkline.tenants.announce import CONFIG
from trunkline.tenants.configs import PURPOSE, load, record_of
from trunkline.tenants.model import Tenant
from trunkline.tenants.sealing import Sealer

MOST_KNOWN = 4_096
"""Configurations remembered."""

log = structlog.get_logger(__name__)

_Known = tuple[str, str, int]


class ConfigReader:
    """What tenants have configured of the toolsets that this process hosts.

    From memory by version, then Redis, then Postgres. A version that is newer than the one asked for is as good: the
    tenant's next snapshot will name it.
    """

    def __init__(
        self, settings: Settings, database: Database, redis: Redis, models: Mapping[str, type[BaseModel]]
    ) -> None:
        self._database = database
        self._snapshots = Snapshots(redis)
        self._sealer = Sealer(settings.root, PURPOSE) if models else None
        self._models = models
        self._known: OrderedDict[_Known, BaseModel] = OrderedDict()
        self._reading: dict[_Known, asyncio.Task[BaseModel | None]] = {}

    async def of(self, tenant: Tenant) -> tuple[BaseModel, ...]:
        """The configurations of the tenant's toolsets that are on, hosted here and configured.

        Raises:
            Unavailable: one of them cannot be read; the sentence, which clients may see, names the toolset.
        """
        found = [
            await self.get(tenant.id, toolset, version)
            for toolset, version in tenant.configured
            if toolset in self._models
        ]
        return tuple(each for each in found if each is not None)

    async def get(self, tenant_id: str, toolset: str, version: int) -> BaseModel | None:
        """One configuration; None where it was taken away meanwhile.

        Raises:
            Unavailable: it cannot be read.
        """
        key = (tenant_id, toolset, version)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read(tenant_id, toolset, version))
            reading.add_done_callback(lambda task: self._ended(key, task))
        return await asyncio.shield(reading)  # whoever gives up, others may wait for the same

    def _ended(self, key: _Known, reading: asyncio.Task[BaseModel | None]) -> None:
        del self._reading[key]
        if not reading.cancelled():
            reading.exception()  # whoever asked may have given up

    async def _read(self, tenant_id: str, toolset: str, version: int) -> BaseModel | None:
        stored = await self._stored(tenant_id, toolset, version)
        if stored is None:
            return None
        fields = orjson.loads(stored)
        if fields["config"] is None:
            return None
        config = self._opened(tenant_id, toolset, fields)
        self._known[tenant_id, toolset, fields["version"]] = config
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return config

    async def _stored(self, tenant_id: str, toolset: str, version: int) -> bytes | None:
        name = f"{tenant_id}:{toolset}"
        try:
            stored = await self._snapshots.get(CONFIG, name)
            if stored is None or orjson.loads(stored)["version"] < version:
                stored = await self._database.look(
                    lambda session: load(session, tenant_id, toolset), scope=tenant_scope(tenant_id)
                )
                if stored is not None:
                    await self._snapshots.put(CONFIG, name, orjson.loads(stored)["version"], stored)
        except Unavailable as error:
            raise Unavailable(f"The configuration of toolset {toolset} cannot be read now.") from error
        return stored

    def _opened(self, tenant_id: str, toolset: str, fields: Mapping[str, Any]) -> BaseModel:
        assert self._sealer is not None, "nothing is read where nothing can be configured"  # noqa: S101
        values = dict(fields["config"])
        try:
            for field, secret in fields["secrets"].items():
                sealed = base64.b64decode(secret["s"])
                values[field] = orjson.loads(
                    self._sealer.open(sealed, tenant_id, record_of(toolset, field, secret["v"]))
                )
            return self._models[toolset].model_validate_json(orjson.dumps(values))
        except StartRefused as error:
            log.error("a toolset's secret cannot be decrypted", tenant=tenant_id, toolset=toolset)
            raise Unavailable(f"The configuration of toolset {toolset} cannot be read now.") from error
        except ValidationError as error:
            wrong = sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)})
            log.error("a toolset is configured as it cannot be", tenant=tenant_id, toolset=toolset, fields=wrong)
            raise Unavailable(
                f"The configuration of toolset {toolset} does not fit it; an administrator of the tenant has to set "
                "it again."
            ) from None
