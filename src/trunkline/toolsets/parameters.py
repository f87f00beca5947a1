"""Arguments of tools that a stateless client sends as headers, too (2026-07-28, basic/transports, custom headers)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import find_invalid_x_mcp_header, validate_mcp_param_headers, x_mcp_header_map

InputSchema = Mapping[str, Any]

Tools = dict[str, InputSchema | None]
"""By the names that clients use; with the schema of those whose arguments have headers."""


def with_headers(schema: InputSchema) -> InputSchema | None:
    """The schema, where it declares headers as the specification wants it; clients drop a tool that does not."""
    return schema if find_invalid_x_mcp_header(schema) is None and x_mcp_header_map(schema) else None


def check_headers(schema: InputSchema, arguments: object, headers: Mapping[str, str]) -> None:
    """Compare the `mcp-param-*` headers of a call with its arguments; malformed arguments are left to the server.

    Raises:
        MCPError: -32020, one of them says something else.
    """
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        return
    mismatch = validate_mcp_param_headers(schema, arguments, headers)
    if mismatch is not None:
        raise MCPError(code=mismatch.code, message=mismatch.message, data=mismatch.data)
