"""Signing up: a tenant of one's own, its owner, and its first key."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
