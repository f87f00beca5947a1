"""Tools that need nothing of the SDK but their arguments checked: called with nothing around them, to the same end.

Most tools of an `MCPServer` take arguments and return something, and never look at the request, the session or the
client. What the SDK makes for each call all the same (parameters, session, two contexts, a result that is validated
twice) costs more than they do (docs/decisions/0005-calling-the-sdk.md). What is not exactly the SDK's own, or says
anything but text, goes the SDK's way.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, NamedTuple, NoReturn, cast

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.tools.tool_manager import ToolManager
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams
from pydantic import create_model

from trunkline.toolsets.request_state import Boundary

_ASIDE: tuple[type, ...] = (Boundary,)
"""Middleware that has nothing to do with a call that brings no state and gets a whole result."""


class Text(NamedTuple):
    """A tool's whole result: one text, and the structured content that says the same."""

    text: str
    structured: dict[str, str] | None


class Unfit(Exception):
    """The arguments are not what the tool takes: the SDK is to say how."""


class DirectTool:
    """One tool of an `MCPServer`, as long as that does not change it."""

    __slots__ = (
        "_arguments", "_metadata", "_metadata_was", "_names", "_parsed", "_texts", "_tool", "_tool_was", "server",
    )  # fmt: skip

    def __init__(self, server: Server[Any], tool: Tool) -> None:
        metadata = tool.fn_metadata
        self.server = server
        """The one that it is a tool of."""
        self._tool = tool
        self._metadata = metadata
        self._tool_was = dict(tool.__dict__)
        self._metadata_was = dict(metadata.__dict__)
        self._arguments = metadata.arg_model
        fields = metadata.arg_model.model_fields
        self._names = [(name, field.alias or name) for name, field in fields.items()]
        self._parsed = frozenset(
            key
            for name, field in fields.items()
            if field.annotation is not str
            for key in (name, field.alias)
            if key is not None
        )
        """Arguments that the SDK takes as JSON where they come as text."""
        self._texts = _says_text(metadata)

    @property
    def name(self) -> str:
        """What its server calls it."""
        return self._tool.name

    def is_still(self, tool: Tool) -> bool:
        """Whether this is what would be made of the tool now; the same objects are not looked into."""
        return (
            tool is self._tool and tool.__dict__ == self._tool_was and self._metadata.__dict__ == self._metadata_was
        )

    async def run(self, arguments: dict[str, Any]) -> Text | HandlerResult:
        """Call the tool; anything but `Text` is what the SDK's own handler would return.

        Raises:
            Unfit: nothing has run yet.
            MCPError: the tool's own.
        """
        given = self._check(arguments)
        tool = self._tool
        try:
            if tool.is_async:
                result = await tool.fn(**given)
            else:
                result = await self._metadata.call_fn(tool.fn, False, given)
            if self._texts is not None and type(result) is str and _is_unicode(result):
                return Text(result, {"result": result} if self._texts else None)
            return cast("HandlerResult", self._metadata.convert_result(result))
        except MCPError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a tool raises is for the SDK to tell
            return await _told(tool, error)

    def _check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What `FuncMetadata.validate_arguments` gives, with the names looked up once."""
        for key in self._parsed.intersection(arguments) if self._parsed else ():
            if isinstance(arguments[key], str):
                raise Unfit
        try:
            checked = self._arguments.model_validate(arguments)
        except Exception as error:  # an author's validator may raise anything
            raise Unfit from error
        return {given: getattr(checked, name) for name, given in self._names}


class DirectTools:
    """Those tools of a server that may be called directly, now: each change of the server or a tool counts at once.

    What was put around the functions of the SDK's classes is seen if that was done before a tool is first called.
    """

    def __init__(self, server: Server[Any]) -> None:
        self._entry = server.get_request_handler("tools/call")
        self._server = server
        self._author = _plain_server(self._entry.handler if self._entry else None)
        self._known: dict[str, DirectTool] = {}
        self._middleware: list[Any] | None = None

    def find(self, name: str) -> DirectTool | None:
        """The tool of this name, if it may."""
        author, server = self._author, self._server
        if author is None or "call_tool" in author.__dict__:
            return None
        if server.middleware != self._middleware and not self._is_unobserved():
            return None
        if server.get_request_handler("tools/call") is not self._entry:
            return None
        manager = author._tool_manager  # noqa: SLF001 - as `call_tool` does
        if type(manager) is not ToolManager or "call_tool" in manager.__dict__:
            return None
        tool = manager.get_tool(name)
        if tool is None:
            return None
        known = self._known.get(name)
        if known is None or not known.is_still(tool):
            if not _is_plain(tool):
                return None
            known = self._known[name] = DirectTool(server, tool)
        return known

    def _is_unobserved(self) -> bool:
        """Whether nothing of the author's sees calls pass."""
        middleware = list(self._server.middleware)
        if any(type(one) not in _ASIDE for one in middleware):
            return False
        self._middleware = middleware
        return True


_PASSED_BY: tuple[tuple[type, tuple[str, ...]], ...] = (
    (MCPServer, ("_handle_call_tool", "call_tool")),
    (ToolManager, ("call_tool", "get_tool")),
    (Tool, ("run",)),
    (FuncMetadata, ("validate_arguments", "pre_parse_json", "call_fn", "convert_result")),
    (ArgModelBase, ("model_dump_one_level",)),
)
"""What does not run when a tool is called directly, or runs alone."""


def _plain_server(handler: object) -> MCPServer[Any] | None:
    """The `MCPServer` of a handler of `tools/call`, if all that lies between that and its tools is the SDK's."""
    author = getattr(handler, "__self__", None)
    if not isinstance(author, MCPServer) or getattr(handler, "__func__", None) is not MCPServer._handle_call_tool:  # noqa: SLF001
        return None
    return author if type(author).call_tool is MCPServer.call_tool else None


def _is_plain(tool: Tool) -> bool:
    """Whether a tool takes its arguments alone, and nothing (such as a tracer) was put around the SDK's own way."""
    metadata = tool.fn_metadata
    return (
        type(tool) is Tool
        and type(metadata) is FuncMetadata
        and tool.context_kwarg is None
        and not tool.resolved_params
        and metadata.arg_model.model_dump_one_level is ArgModelBase.model_dump_one_level
        and all(_is_own(kind, name) for kind, names in _PASSED_BY for name in names)
    )


def _is_own(kind: type, name: str) -> bool:
    function = vars(kind).get(name)
    return type(function) is FunctionType and function.__code__.co_qualname == f"{kind.__name__}.{name}"


_ONE_TEXT = repr(create_model("_", result=str).model_fields)


def _says_text(metadata: FuncMetadata) -> bool | None:
    """Of a tool that returns text, whether it comes as structured content, too; None where the SDK must look."""
    model = metadata.output_model if metadata.output_schema is not None else None
    if model is None:
        return False
    # One that the SDK has made of the annotation, not an author's own, which may do more.
    made = metadata.wrap_output and getattr(model, "__module__", "") == FuncMetadata.__module__
    return True if made and repr(model.model_fields) == _ONE_TEXT else None


def _is_unicode(text: str) -> bool:
    """Whether it can be sent: a lone surrogate is an error of the tool."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Failed:
    """Stands where an `MCPServer` would whose tool has just failed."""

    _subscriptions = None

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    async def call_tool(self, _name: str, _arguments: dict[str, Any], context: Any) -> HandlerResult:
        return cast("HandlerResult", await self._tool.run({}, context, convert_result=True))


async def _told(tool: Tool, error: Exception) -> HandlerResult:
    """What a client reads of a tool's error, in the SDK's words and with its line in the log.

    Raises:
        MCPError: the error stands for one.
    """

    async def fail() -> NoReturn:
        raise error

    update = {"fn": fail, "fn_metadata": FuncMetadata(arg_model=ArgModelBase), "is_async": True}
    server = cast("MCPServer[Any]", _Failed(tool.model_copy(update=update)))
    no_context = cast("ServerRequestContext[Any, Any]", None)
    return await MCPServer._handle_call_tool(server, no_context, CallToolRequestParams(name=tool.name))  # noqa: SLF001
