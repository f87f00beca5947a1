"""People's accounts, for operators: locked, unlocked, and given a new password to choose."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from trunkline.api.control.answers import Email, UserAnswer
from trunkline.api.control.deps import Answer, Body, ControlDep
from trunkline.api.control.principal import OPERATOR_ONLY, Actor
from trunkline.api.control.problems import responses

router = APIRouter(tags=["Operators"])

Operating = Annotated[Actor, OPERATOR_ONLY]


class AccountBody(Body):
    """Whose account is meant."""

    email: Email


class ResetAnswer(Answer):
    """A way to choose a new password, shown this once."""

    link: str = Field(
        description="To give to whoever has the account, and to nobody else.",
        examples=["https://trunkline.example/reset#tlr_Ar5b..."],
    )
    expires_at: datetime


@router.post("/v1/operator/users/disable", responses=responses())
async def disable_user(body: AccountBody, control: ControlDep, actor: Operating) -> UserAnswer:
    """Let somebody sign in no more, and end their sign-ins. Memberships and keys that they issued stay."""
    return UserAnswer.of(await control.users.disable(body.email, by=actor.by))


@router.post("/v1/operator/users/enable", responses=responses())
async def enable_user(body: AccountBody, control: ControlDep, actor: Operating) -> UserAnswer:
    """Let somebody sign in again."""
    return UserAnswer.of(await control.users.enable(body.email, by=actor.by))


@router.post("/v1/operator/users/reset", responses=responses())
async def reset_password(body: AccountBody, control: ControlDep, actor: Operating) -> ResetAnswer:
    """Make a link with which somebody chooses a new password once; one that they had before is void."""
    secret, until = await control.users.reset(body.email, by=actor.by)
    return ResetAnswer(link=f"{control.settings.public_url}/reset#{secret}", expires_at=until)
