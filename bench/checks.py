"""That nothing was switched off for the measurement: keys, metrics and audit of the measured system."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import asyncpg
import uvloop

from bench import TOOL
from bench.servers import Server

AUDIT_TIMEOUT = 15.0


class SwitchedOffError(Exception):
    """The measured system did not do all of its work."""


def everything_is_on(server: Server, calls: int, tool: str = TOOL) -> str:
    """One sentence of proof: no stream without a key, calls counted, a row in the audit log for each.

    Raises:
        SwitchedOffError: one of them is not so.
    """
    for url in set(server.urls.values()):
        if (refused := _status(url)) != 401:
            raise SwitchedOffError(f"A stream without a key at {url} was answered with {refused}, not 401.")
    parts = urlsplit(server.urls["sse"])
    if (status := _status(f"{parts.scheme}://{parts.netloc}/metrics")) != 200:
        raise SwitchedOffError(f"/metrics answered {status}.")
    rows = uvloop.run(_rows(server.env["TRUNKLINE_DATABASE_URL"], tool, calls))
    if rows != calls:
        raise SwitchedOffError(f"The audit log has {rows} rows for {calls} calls.")
    return (
        f"A stream without a key got 401, /metrics answers, and the audit log has a row for each of {calls:,} calls."
    )


def _status(url: str) -> int:
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def _rows(database: str, tool: str, expected: int) -> int:
    """Rows for the tool, as soon as there are as many as expected, or when time is up."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET trunkline.scope = 'audit'")
        deadline = time.monotonic() + AUDIT_TIMEOUT
        while True:
            rows = int(await connection.fetchval("SELECT count(*) FROM audit_events WHERE target = $1", tool))
            if rows >= expected or time.monotonic() > deadline:
                return rows
            await connection.execute("SELECT pg_sleep(0.2)")
    finally:
        await connection.close()
