"""What a tenant may use, and has used of it."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
