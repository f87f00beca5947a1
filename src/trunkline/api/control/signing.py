"""The keys that sign API keys, for operators."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
