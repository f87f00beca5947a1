"""Which deployment the commands on tenants, toolsets and keys work on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from trunkline.errors import StartRefused

if TYPE_CHECKING:
    from trunkline.db import Database
    from trunkline.settings import Settings
    from trunkline.streams.client import Redis
    from trunkline.tenants.keys import Keys
    from trunkline.tenants.members import Members
    from trunkline.tenants.operators import Operators
    from trunkline.tenants.rotation import SigningKeys
    from trunkline.tenants.tenants import Tenants
    from trunkline.tenants.users import Users

Result = TypeVar("Result")

DEV_FILE: Final = Path(".trunkline/dev.json")
NEEDED: Final = ("TRUNKLINE_SECRET_KEY", "TRUNKLINE_DATABASE_URL", "TRUNKLINE_REDIS_URL")

WHERE: Final = (
    "Works on the deployment whose settings are in the environment: TRUNKLINE_SECRET_KEY, TRUNKLINE_DATABASE_URL, "
    "TRUNKLINE_REDIS_URL, and TRUNKLINE_PUBLIC_URL as its API pods have it, or in files of TRUNKLINE_SECRETS_DIR. "
    "What is not set is taken from .trunkline/dev.json in the current directory, which `trunkline dev` writes."
)
"""For the help of every group of commands that works so."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, opened for one command."""

    settings: Settings
    database: Database
    redis: Redis
    tenants: Tenants
    keys: Keys

    def operators(self) -> Operators:
        """Those who run the platform; imported by the commands that need them alone."""
        from trunkline.audit.record import Recorder
        from trunkline.streams.throttle import RedisThrottle
        from trunkline.tenants.operators import Operators
        from trunkline.tenants.passwords import Passwords

        recorder = Recorder(self.settings.root)
        return Operators(self.settings, self.database, RedisThrottle(self.redis), Passwords(), recorder)

    def members(self) -> Members:
        """The members of tenants; imported by the commands that need them alone."""
        from trunkline.audit.record import Recorder
        from trunkline.streams.throttle import RedisThrottle
        from trunkline.tenants.members import Members
        from trunkline.tenants.passwords import Passwords

        recorder = Recorder(self.settings.root)
        return Members(self.settings, self.database, RedisThrottle(self.redis), Passwords(), recorder)

    def users(self) -> Users:
        """People's accounts; imported by the commands that need them alone."""
        from trunkline.audit.record import Recorder
        from trunkline.streams.throttle import RedisThrottle
        from trunkline.tenants.passwords import Passwords
        from trunkline.tenants.users import Users

        recorder = Recorder(self.settings.root)
        return Users(self.settings, self.database, RedisThrottle(self.redis), Passwords(), recorder)

    def signing(self) -> SigningKeys:
        """The keys that sign API keys."""
        from trunkline.audit.record import Recorder
        from trunkline.tenants.rotation import SigningKeys

        return SigningKeys(self.settings, self.database, self.redis, Recorder(self.settings.root))


def ask(question: Callable[[Deployment], Awaitable[Result]]) -> Result:
    """Read from the deployment; Postgres is enough for that."""
    return asyncio.run(_opened(question, writes=False))


def change(work: Callable[[Deployment], Awaitable[Result]]) -> Result:
    """Change something; refused before it begins where Redis is away, since no pod would hear of it."""
    return asyncio.run(_opened(work, writes=True))


async def _opened(work: Callable[[Deployment], Awaitable[Result]], *, writes: bool) -> Result:
    settings = deployment_settings()

    from trunkline.db import Database
    from trunkline.streams.client import Redis
    from trunkline.tenants.keys import Keys
    from trunkline.tenants.tenants import Tenants

    redis = await Redis.connect(settings, "cli") if writes else Redis(settings, "cli")
    database = Database(settings.database_url, process="cli", pool_size=1)
    try:
        tenants, keys = Tenants(settings, database, redis), Keys(settings, database, redis)
        return await work(Deployment(settings, database, redis, tenants, keys))
    finally:
        await database.aclose()
        await redis.aclose()


def deployment_settings() -> Settings:
    """The settings from the environment, completed from `.trunkline/dev.json`; the environment wins.

    The file is left alone where the environment names another database, Redis or secret than it does: otherwise
    half of one deployment would be written to with half of another.

    Raises:
        StartRefused: something is missing or malformed; the sentence says what to set.
    """
    from trunkline.settings import load_settings, with_files

    offered, given = _dev_environment(), with_files(os.environ)
    if all(given.get(name) in {None, "", value} for name, value in offered.items() if name in NEEDED):
        for name, value in offered.items():
            given[name] = os.environ[name] = given.get(name) or value
    missing = [name for name in NEEDED if not given.get(name)]
    if missing:
        raise StartRefused(
            f"Set {' and '.join(missing)}, or run this where `trunkline dev` was started, beside {DEV_FILE}."
        )
    return load_settings()


def _dev_environment() -> dict[str, str]:
    try:
        found = json.loads(DEV_FILE.read_bytes())["env"]
        return {name: str(value) for name, value in found.items() if name.startswith("TRUNKLINE_")}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StartRefused(f"{DEV_FILE} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartRefused(f"{DEV_FILE} is not what `trunkline dev` writes; start that again.") from error
