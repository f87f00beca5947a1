"""Toolsets: what there is, what a tenant has switched on, and how it is configured."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Header, Path
from pydantic import Field
from starlette.responses import Response

from trunkline.api.control.deps import Answer, Body, ControlDep, Slug
from trunkline.api.control.principal import ANYONE_KNOWN, Actor, allowed
from trunkline.api.control.problems import responses
from trunkline.control_errors import PreconditionFailed, ToolsetNotFound
from trunkline.tenants.configs import ToolsetConfig
from trunkline.tenants.hosted import HostedToolset

router = APIRouter(tags=["Toolsets"])

Name = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,32}$", description="The toolset's name.")]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", max_length=64, description="Change nothing unless the configuration has this `ETag`."),
]
Reader = Annotated[Actor, allowed("toolsets:read")]
Manager = Annotated[Actor, allowed("toolsets:manage")]

_SCHEMA = {
    "type": "object",
    "properties": {"token": {"type": "string", "writeOnly": True}, "region": {"type": "string"}},
    "required": ["token"],
    "additionalProperties": False,
}


class HostedAnswer(Answer):
    """A toolset that can be switched on."""

    name: str = Field(examples=["weather"])
    title: str = Field(examples=["Weather of the world"])
    config_schema: dict[str, Any] | None = Field(
        default=None, description="What can be configured, as JSON Schema.", examples=[_SCHEMA]
    )

    @classmethod
    def of(cls, found: HostedToolset) -> Self:
        """A toolset, as told."""
        schema = None if found.schema is None else dict(found.schema)
        return cls(name=found.name, title=found.title, config_schema=schema)


class HostedList(Answer):
    """All that there is to switch on."""

    items: list[HostedAnswer]


class ToolsetAnswer(Answer):
    """A toolset that the tenant has or had switched on."""

    name: str = Field(examples=["weather"])
    enabled: bool
    position: int = Field(description="In the order of first switching on, in which names are given.", examples=[1])
    configured: bool
    config_version: int = Field(description="0 where nothing is configured.", examples=[1795651200000])


class ToolsetList(Answer):
    """What the tenant has or had switched on."""

    items: list[ToolsetAnswer]


class ConfigBody(Body):
    """A configuration, whole."""

    config: dict[str, Any] = Field(
        description=(
            "All fields, by the names in the toolset's schema. A secret (`writeOnly`) that is left out stays as it "
            "is; null takes it away."
        ),
        examples=[{"token": "wx_3f9a", "region": "eu"}],
    )


class ConfigAnswer(Answer):
    """A configuration, without the secrets: nobody reads those again."""

    config: dict[str, Any] = Field(examples=[{"region": "eu"}])
    secrets: list[str] = Field(description="The secrets that are set.", examples=[["token"]])
    version: int = Field(description="0 where nothing is configured.", examples=[1795651200000])
    fields: dict[str, Any] = Field(
        serialization_alias="schema", description="What can be configured, as JSON Schema.", examples=[_SCHEMA]
    )


@router.get("/v1/toolsets", responses=responses())
async def list_hosted_toolsets(control: ControlDep, actor: Annotated[Actor, ANYONE_KNOWN]) -> HostedList:
    """What there is to switch on: the servers that this deployment's workers host."""
    return HostedList(items=[HostedAnswer.of(each) for each in await control.configs.hosted()])


@router.get("/v1/tenants/{tenant}/toolsets", responses=responses())
async def list_toolsets(tenant: Slug, control: ControlDep, actor: Reader) -> ToolsetList:
    """What the tenant has or had switched on."""
    return ToolsetList(items=await _toolsets(control, actor))


@router.put("/v1/tenants/{tenant}/toolsets/{name}", responses=responses())
async def enable_toolset(tenant: Slug, name: Name, control: ControlDep, actor: Manager) -> ToolsetAnswer:
    """Switch a toolset on. Clients that are connected hear that their lists have changed."""
    await control.configs.check_hosted(name)
    await control.tenants.enable(tenant, name, by=actor.by, tenant_id=actor.tenant_id)
    return await _toolset(control, actor, name)


@router.delete("/v1/tenants/{tenant}/toolsets/{name}", responses=responses())
async def disable_toolset(tenant: Slug, name: Name, control: ControlDep, actor: Manager) -> ToolsetAnswer:
    """Switch a toolset off. Its configuration stays for when it is switched on again."""
    await _toolset(control, actor, name)
    await control.tenants.disable(tenant, name, by=actor.by, tenant_id=actor.tenant_id)
    return await _toolset(control, actor, name)


@router.get("/v1/tenants/{tenant}/toolsets/{name}/config", responses=responses())
async def show_config(
    tenant: Slug, name: Name, response: Response, control: ControlDep, actor: Reader
) -> ConfigAnswer:
    """The configuration, without its secrets, and what can be configured."""
    return _answer(response, await control.configs.get(actor.tenant_id, name))


@router.put("/v1/tenants/{tenant}/toolsets/{name}/config", responses=responses(412))
async def configure_toolset(
    tenant: Slug,
    name: Name,
    body: ConfigBody,
    response: Response,
    control: ControlDep,
    actor: Manager,
    if_match: IfMatch = None,
) -> ConfigAnswer:
    """Replace the configuration. It holds within a second for calls that begin; those that run keep the old one."""
    put = await control.configs.put(actor.tenant_id, name, body.config, actor.by, _version(if_match))
    return _answer(response, put)


@router.delete("/v1/tenants/{tenant}/toolsets/{name}/config", status_code=204, responses=responses(412))
async def clear_config(
    tenant: Slug, name: Name, control: ControlDep, actor: Manager, if_match: IfMatch = None
) -> None:
    """Take the configuration away with its secrets: the toolset's defaults hold again."""
    await control.configs.delete(actor.tenant_id, name, actor.by, _version(if_match))


async def _toolsets(control: ControlDep, actor: Actor) -> list[ToolsetAnswer]:
    return [
        ToolsetAnswer(
            name=row.name,
            enabled=row.enabled,
            position=row.position,
            configured=row.config_version > 0,
            config_version=row.config_version,
        )
        for row in await control.configs.toolsets(actor.tenant_id)
    ]


async def _toolset(control: ControlDep, actor: Actor, name: str) -> ToolsetAnswer:
    for each in await _toolsets(control, actor):
        if each.name == name:
            return each
    raise ToolsetNotFound(f"The tenant has no toolset {name!r} switched on.")


def _answer(response: Response, found: ToolsetConfig) -> ConfigAnswer:
    response.headers["etag"] = f'"{found.version}"'
    return ConfigAnswer(
        config=found.config, secrets=list(found.secrets), version=found.version, fields=dict(found.schema)
    )


def _version(if_match: str | None) -> int | None:
    """The version that is to be there still (RFC 9110, section 13.1.1); None for any."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = if_match.strip().strip('"')
    if not (tag.isascii() and tag.isdigit()):
        raise PreconditionFailed("If-Match takes the ETag that reading the configuration gave.")
    return int(tag)
