"""Shapes of answers that several routes give: users, tenants, sign-ins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import Field

from trunkline.api.control.deps import Answer, Control
from trunkline.api.control.principal import csrf_token
from trunkline.settings import Settings
from trunkline.snippets import Address, client_snippets
from trunkline.tenants.accounts import Founded
from trunkline.tenants.limits import Quotas
from trunkline.tenants.model import Access, Status, Tenant
from trunkline.tenants.people import User
from trunkline.tenants.roles import Role
from trunkline.tenants.sign_ins import SignIn

KEY_PLACE_HOLDER = "tlk_..."
"""What stands for the key where it is not known."""

Email = Annotated[str, Field(min_length=3, max_length=254, examples=["ada@example.com"])]
_PHRASE = "correct horse battery staple"
_SECRET = {"writeOnly": True, "format": "password"}
NewPassword = Annotated[str, Field(min_length=12, max_length=256, examples=[_PHRASE], json_schema_extra={**_SECRET})]
Password = Annotated[str, Field(min_length=1, max_length=256, examples=[_PHRASE], json_schema_extra={**_SECRET})]
Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Ada Lovelace"])]
NewSlug = Annotated[
    str,
    Field(min_length=1, max_length=63, description="A DNS label: the tenant's name in its URL.", examples=["acme"]),
]


class UserAnswer(Answer):
    """A person with an account."""

    id: str = Field(examples=["01a204896abc772f972f8cf86b307e62"])
    email: str = Field(examples=["ada@example.com"])
    name: str = Field(examples=["Ada Lovelace"])

    @classmethod
    def of(cls, user: User) -> Self:
        """A user, as told."""
        return cls(id=user.id, email=user.email, name=user.name)


class LimitsAnswer(Answer):
    """What a tenant may use at most."""

    rate: float = Field(description="Messages a second.", examples=[2000.0])
    burst: int = Field(description="Messages at once.", examples=[4000])
    in_flight: int = Field(description="Requests accepted and not answered.", examples=[1000])
    sessions: int = Field(description="Live sessions.", examples=[10000])


class QuotasAnswer(Answer):
    """What a tenant may use in a month (UTC); null for no bound."""

    monthly_calls: int | None = Field(description="Tool calls; beyond it 429.", examples=[100000])
    monthly_calls_soft: int | None = Field(description="Beyond it answers say so, and one event is recorded.")
    monthly_compute: int | None = Field(description="Seconds that its tools run.", examples=[3600])
    monthly_compute_soft: int | None

    @classmethod
    def of(cls, quotas: Quotas) -> Self:
        """Quotas, as told."""
        return cls(**{f"monthly_{name}": value for name, value in quotas._asdict().items()})


class Urls(Answer):
    """Where a tenant's clients connect."""

    url: str = Field(examples=["https://trunkline.example/t/acme"])
    mcp_url: str = Field(description="Streamable HTTP.", examples=["https://trunkline.example/t/acme/mcp"])
    sse_url: str = Field(description="HTTP+SSE.", examples=["https://trunkline.example/t/acme/sse"])

    @classmethod
    def of(cls, settings: Settings, slug: str) -> Self:
        """Those of a tenant."""
        base = settings.tenant_url(slug)
        return cls(url=base, mcp_url=f"{base}/mcp", sse_url=f"{base}/sse")


class TenantAnswer(Answer):
    """A tenant."""

    id: str = Field(examples=["01a204896abc772f972f8cf86b307e62"])
    slug: str = Field(examples=["acme"])
    name: str = Field(examples=["Acme"])
    access: Access = Field(description="Who may call: holders of its keys, or anyone.")
    status: Status
    limits: LimitsAnswer
    quotas: QuotasAnswer
    created_at: datetime
    urls: Urls

    @classmethod
    def of(cls, settings: Settings, tenant: Tenant) -> Self:
        """A tenant, as told."""
        limits = tenant.limits
        return cls(
            id=tenant.id,
            slug=tenant.slug,
            name=tenant.name,
            access=tenant.access,
            status=tenant.status,
            limits=LimitsAnswer(
                rate=limits.rate, burst=limits.burst, in_flight=limits.in_flight, sessions=limits.sessions
            ),
            quotas=QuotasAnswer.of(tenant.quotas),
            # A UUIDv7 begins with the milliseconds at which it was made (RFC 9562, section 5.7).
            created_at=datetime.fromtimestamp(int(tenant.id[:12], 16) / 1000, UTC),
            urls=Urls.of(settings, tenant.slug),
        )


class FirstKey(Answer):
    """What is known of a key that was made just now."""

    id: str
    name: str
    scopes: list[str]
    tools: list[str]
    created_at: datetime
    expires_at: datetime


class NewFirstKey(Answer):
    """A key, shown this once."""

    key: FirstKey
    secret: str = Field(description="The key itself: it is stored nowhere.", examples=["tlk_eyJhbGciOi..."])


class FoundedAnswer(Answer):
    """A new tenant with its first key, and how to call with it."""

    tenant: TenantAnswer
    key: NewFirstKey
    url: str
    mcp_url: str
    sse_url: str
    snippets: dict[str, str] = Field(description="By client, what to run, write or paste.")

    @classmethod
    def values(cls, settings: Settings, founded: Founded) -> dict[str, object]:
        """What a new tenant is told as."""
        urls = Urls.of(settings, founded.tenant.slug)
        return {
            "tenant": TenantAnswer.of(settings, founded.tenant),
            "key": NewFirstKey(key=FirstKey.model_validate(founded.key), secret=founded.secret),
            **urls.model_dump(),
            "snippets": snippets_of(settings, founded.tenant.slug, founded.secret),
        }


class Membership(Answer):
    """A tenant that the user belongs to."""

    tenant: str = Field(examples=["acme"])
    role: Role


class SessionAnswer(Answer):
    """Somebody who is signed in."""

    user: UserAnswer
    memberships: list[Membership]
    csrf_token: str | None = Field(
        description="To be sent in `X-CSRF-Token` with every request by cookie that changes something."
    )
    expires_at: datetime


class SignInAnswer(Answer):
    """A browser or script that is signed in."""

    id: str
    kind: Literal["cookie", "token"]
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str
    current: bool = Field(description="Whether this request was made with it.")


async def session_of(control: Control, sign_in: SignIn, secret: str) -> SessionAnswer:
    """A user's session, as told to whoever has its secret."""
    user = await control.accounts.user(sign_in.user_id)
    memberships = await control.accounts.memberships(user.id)
    return SessionAnswer(
        user=UserAnswer.of(user),
        memberships=[Membership(tenant=slug, role=role) for slug, role in memberships],
        csrf_token=csrf_token(secret) if sign_in.kind == "cookie" else None,
        expires_at=sign_in.expires_at,
    )


def snippets_of(settings: Settings, slug: str, key: str = KEY_PLACE_HOLDER) -> dict[str, str]:
    """By client, how to call a tenant."""
    urls = Urls.of(settings, slug)
    return client_snippets(Address(settings.public_url, urls.mcp_url, urls.sse_url, key))
