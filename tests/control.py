"""The control plane as its clients have it: a deployment with one API pod, and clients of its `/v1`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
from tests.journey.conftest import Platform, platform_on

from trunkline.settings import Settings

PASSWORD = "correct horse battery staple"


@dataclass
class ControlRig:
    """A deployment, and where its control plane is."""

    platform: Platform
    url: str

    @contextlib.asynccontextmanager
    async def client(self, credential: str = "", **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
        """A client of `/v1` with a key or token, or with neither."""
        if credential:
            headers["authorization"] = f"Bearer {credential}"
        async with httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=15) as http:
            yield http


@contextlib.asynccontextmanager
async def control_on(settings: Settings, **changes: object) -> AsyncIterator[ControlRig]:
    """A deployment with the tenant `demo` and one API pod, whose passwords cost next to nothing."""
    settings = settings.model_copy(update={"signup": "open", **changes})
    async with platform_on(settings) as platform:
        yield ControlRig(platform, await platform.api())
