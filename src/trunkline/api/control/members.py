"""A tenant's members and invitations."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
