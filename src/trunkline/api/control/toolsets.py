"""Toolsets: what there is, what a tenant has switched on, and how it is configured."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
