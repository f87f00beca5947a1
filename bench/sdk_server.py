"""The side to compare with: the SDK's server in one process, as lean as uvicorn runs it.

`tuned` is uvloop, httptools and no access log, which is what a careful operator would run; `json` the same with
streamable HTTP told to answer with documents where it would choose streams; `shipped` is `MCPServer.run()` as the
SDK's documentation shows it, on asyncio's own loop and with an access log.
"""

from __future__ import annotations

import argparse
import logging

import uvicorn

from bench.echo import server

VARIANTS = ("tuned", "json", "shipped")
TRANSPORTS = ("sse", "http")
"""What one process serves; over the second it speaks both eras."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sdk_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variant", choices=VARIANTS, default="tuned")
    parser.add_argument("--transport", choices=TRANSPORTS, default="sse")
    options = parser.parse_args()
    if options.variant == "shipped":
        logging.getLogger().setLevel(logging.INFO)
        server.settings.log_level = "INFO"
        server.run("sse" if options.transport == "sse" else "streamable-http", port=options.port)
        return
    streamable = options.transport == "http"
    uvicorn.run(
        server.streamable_http_app(json_response=options.variant == "json") if streamable else server.sse_app(),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
