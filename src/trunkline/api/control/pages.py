"""Pages for people: what there is, and what problems mean."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
