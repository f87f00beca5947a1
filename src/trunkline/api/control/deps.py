"""What the routes of the control plane work with, and the shapes that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from trunkline.api.control.cursors import Cursors
from trunkline.api.control.principal import Actor
from trunkline.audit.export import Export
from trunkline.audit.record import Recorder
from trunkline.audit.tail import Tail
from trunkline.audit.usage import UsageReader
from trunkline.db import Database
from trunkline.metrics import Metrics
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.throttle import RedisThrottle
from trunkline.tenants.accounts import Accounts
from trunkline.tenants.configs import Configs
from trunkline.tenants.directory import TenantDirectory
from trunkline.tenants.idempotency import IdempotencyStore
from trunkline.tenants.keys import Keys
from trunkline.tenants.mail import Mailer
from trunkline.tenants.members import Members
from trunkline.tenants.operators import Operators
from trunkline.tenants.passwords import Passwords
from trunkline.tenants.people import Moment
from trunkline.tenants.quotas import QuotaSeeder
from trunkline.tenants.rotation import SigningKeys
from trunkline.tenants.tenants import Tenants
from trunkline.tenants.users import Users
from trunkline.tenants.verify import Verifier

Item = TypeVar("Item")
Where = Callable[[Item], Moment]
"""Where an item stands in a list by time."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the routes work with; made once by `api/run.py`, found at `app.state.control`."""

    settings: Settings
    database: Database
    redis: Redis
    directory: TenantDirectory
    verifier: Verifier
    tenants: Tenants
    keys: Keys
    accounts: Accounts
    members: Members
    operators: Operators
    users: Users
    signing: SigningKeys
    quotas: QuotaSeeder
    configs: Configs
    usage: UsageReader
    tail: Tail
    exports: Export
    cursors: Cursors
    recorder: Recorder
    idempotency: IdempotencyStore
    metrics: Metrics
    throttle: RedisThrottle
    passwords: Passwords
    mailer: Mailer | None
    """None where no mail server is configured."""
    note_use: Callable[[str], None]
    """Told which key was used."""

    @classmethod
    def make(
        cls,
        settings: Settings,
        database: Database,
        redis: Redis,
        directory: TenantDirectory,
        verifier: Verifier,
        metrics: Metrics,
        passwords: Passwords,
        note_use: Callable[[str], None],
    ) -> Control:
        """Put it together from what a pod has."""
        recorder = Recorder(settings.root)
        tenants, keys = Tenants(settings, database, redis), Keys(settings, database, redis)
        throttle = RedisThrottle(redis)
        return cls(
            settings=settings,
            database=database,
            redis=redis,
            directory=directory,
            verifier=verifier,
            tenants=tenants,
            keys=keys,
            accounts=Accounts(settings, database, throttle, tenants, keys, passwords, recorder),
            members=Members(settings, database, throttle, passwords, recorder),
            operators=Operators(settings, database, throttle, passwords, recorder),
            users=Users(settings, database, throttle, passwords, recorder),
            signing=SigningKeys(settings, database, redis, recorder),
            quotas=QuotaSeeder(redis, database, settings.root),
            configs=Configs(settings, database, redis, recorder),
            usage=UsageReader(database),
            tail=Tail(redis, database),
            exports=Export(database, settings.root, settings.export_rows),
            cursors=Cursors(settings.root),
            recorder=recorder,
            idempotency=IdempotencyStore(database, settings.root),
            metrics=metrics,
            throttle=throttle,
            passwords=passwords,
            mailer=Mailer(settings) if settings.smtp_url.get_secret_value() else None,
            note_use=note_use,
        )


def _control(request: Request) -> Control:
    found: Control = request.app.state.control
    return found


ControlDep = Annotated[Control, Depends(_control)]
"""A route's way to `Control`: a parameter `control: ControlDep`."""


class Body(BaseModel):
    """A request's body: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(from_attributes=True)


Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hex characters.")]
"""An id in a path."""
Slug = Annotated[str, Path(description="The tenant's name, as in its URL.", max_length=63)]
"""`{tenant}` in a path."""
Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]
Cursor = Annotated[
    str | None, Query(max_length=1_024, description="`next` of the page before; leave it out for the first one.")
]


class Page(Answer, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next: str | None = Field(default=None, description="The next page's `cursor`; null on the last page.")


def begin_of(control: Control, actor: Actor, route: str, cursor: str | None) -> Moment | None:
    """Behind which item the page begins that a cursor names; None for the first page.

    Raises:
        CursorNotFound: the cursor is another's, another list's, or none at all.
    """
    if cursor is None:
        return None
    position = control.cursors.open(actor, route, cursor)
    return datetime.fromisoformat(position["at"]), str(position["id"])


def end_of(
    control: Control, actor: Actor, route: str, found: Sequence[Item], limit: int, at: Where[Item]
) -> str | None:
    """The cursor of the page behind `limit` items; None where `found`, which was asked for one more, has no more."""
    if len(found) <= limit:
        return None
    moment, identity = at(found[limit - 1])
    return control.cursors.seal(actor, route, {"at": moment.isoformat(), "id": identity})


def link_next(request: Request, response: Response, cursor: str | None) -> None:
    """Say where the next page is (RFC 8288), for clients that follow links."""
    if cursor is not None:
        url = request.url.include_query_params(cursor=cursor)
        response.headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
