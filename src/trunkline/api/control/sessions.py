"""Signing in and out, and one's own account."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
