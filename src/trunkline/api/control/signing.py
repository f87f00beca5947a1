"""The keys that sign API keys, for operators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, status
from pydantic import Field

from trunkline.api.control.deps import Answer, Body, ControlDep, Id
from trunkline.api.control.idempotency import once
from trunkline.api.control.principal import OPERATOR_ONLY, Actor
from trunkline.api.control.problems import responses
from trunkline.errors import UsageError
from trunkline.tenants.key_options import parse_duration

router = APIRouter(tags=["Operators"])

Operator = Annotated[Actor, OPERATOR_ONLY]


class SigningKey(Answer):
    """A key that signs, will, or did."""

    kid: str
    created_at: datetime
    not_before: datetime = Field(description="It signs from then on, until a newer one does.")
    retired_at: datetime | None = Field(description="From then on nothing that it signed is accepted.")
    state: Literal["next", "signs", "verifies", "retired"]
    live_keys: int = Field(description="API keys that hang on it and are in use.")


class SigningKeyList(Answer):
    """All of them, the newest first."""

    items: list[SigningKey]


class NewSigningKey(Body):
    """When the new key signs."""

    ahead: Annotated[str, Field(pattern=r"^\d{1,6}[smhdw]$")] = Field(
        "90s", description="How long it is known to all pods before; at least a minute for pods that miss the news."
    )


class Retirement(Body):
    """When a key is retired."""

    at: datetime | None = Field(None, description="With its zone; now unless given.")
    force: bool = Field(False, description="Even though API keys that are in use hang on it: they stop working.")


@router.get("/v1/operator/signing-keys", responses=responses())
async def list_signing_keys(control: ControlDep, actor: Operator) -> SigningKeyList:
    """The keys that sign API keys."""
    return SigningKeyList(items=[SigningKey.model_validate(record) for record in await control.signing.list()])


@router.post("/v1/operator/signing-keys/rotate", status_code=status.HTTP_201_CREATED, responses=responses(409))
@once
async def rotate_signing_key(body: NewSigningKey, control: ControlDep, actor: Operator) -> SigningKey:
    """Make a key that signs after a while; API keys of the one before stay good."""
    record = await control.signing.rotate(actor.by, parse_duration(body.ahead))
    return SigningKey.model_validate(record)


@router.post("/v1/operator/signing-keys/{kid}/retire", responses=responses(409))
async def retire_signing_key(kid: Id, body: Retirement, control: ControlDep, actor: Operator) -> SigningKey:
    """Accept nothing any more that a key signed, once no API key that is in use hangs on it."""
    if body.at is not None and body.at.tzinfo is None:
        raise UsageError("at needs its zone, as in 2026-12-31T00:00:00Z.")
    record = await control.signing.retire(kid, actor.by, body.at, force=body.force)
    return SigningKey.model_validate(record)
