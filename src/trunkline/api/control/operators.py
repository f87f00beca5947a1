"""What operators do: tenants, sign-up codes, their own sign-ins."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
