"""The same server in the SDK's own single process: `python -m tests.conformance.reference PORT`."""

from __future__ import annotations

import sys

import uvicorn
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import JSONRPCMessage
from tests.conformance.everything import server

RETRY = 100
"""Milliseconds after which a client whose stream was ended comes back."""


class Events(EventStore):
    """What was sent on each stream, in memory."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._sent.append((stream_id, message))
        return str(len(self._sent))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        after = int(last_event_id)
        if not 0 < after <= len(self._sent):
            return None
        stream = self._sent[after - 1][0]
        for number, (name, message) in enumerate(self._sent[after:], start=after + 1):
            if name == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


if __name__ == "__main__":
    app = server.streamable_http_app(event_store=Events(), retry_interval=RETRY)
    # h11 takes away the space after a header's value (RFC 9110, section 5.5), which httptools leaves where it is.
    uvicorn.run(app, port=int(sys.argv[1]), http="h11", log_level="warning")
