"""The clients of all transports, by name."""

from __future__ import annotations

from collections.abc import Mapping

from faults.client import Client
from faults.client_http import HttpClient
from faults.client_modern import ModernClient
from faults.client_sse import SseClient
from faults.ledger import Transport

CLIENTS: Mapping[Transport, type[Client]] = {each.transport: each for each in (SseClient, HttpClient, ModernClient)}
