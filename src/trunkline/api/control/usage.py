"""What a tenant has used."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
