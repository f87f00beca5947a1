"""The side to compare with: the SDK's SSE server in one process, as lean as uvicorn runs it.

`tuned` is uvloop, httptools and no access log, which is what a careful operator would run; `shipped` is
`MCPServer.run("sse")` as the SDK's documentation shows it, on asyncio's own loop and with an access log.
"""

from __future__ import annotations

import argparse
import logging

import uvicorn

from bench.echo import server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sdk_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variant", choices=("tuned", "shipped"), default="tuned")
    options = parser.parse_args()
    if options.variant == "shipped":
        logging.getLogger().setLevel(logging.INFO)
        server.settings.log_level = "INFO"
        server.run("sse", port=options.port)
        return
    uvicorn.run(
        server.sse_app(),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
