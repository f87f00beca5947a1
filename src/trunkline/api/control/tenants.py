"""Tenants, for those who belong to them."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from trunkline import __version__
from trunkline.api.control.deps import Answer, ControlDep
from trunkline.api.control.problems import responses

router = APIRouter()


class Deployment(Answer):
    """What this is, for whoever knows nothing of it yet."""

    version: str
    signup: Literal["open", "invite", "closed"]


@router.get("/v1", responses=responses())
async def show_deployment(control: ControlDep) -> Deployment:
    """The version, and who may sign up."""
    return Deployment(version=__version__, signup=control.settings.signup)
