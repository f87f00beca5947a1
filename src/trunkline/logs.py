"""Logs of one process: JSON lines, or readable ones on a terminal, and never a secret in them.

Everything goes through one renderer: our own lines, and those that libraries write through `logging`. A line
has `timestamp`, `level`, `event`, `process` and `pod`, and whatever ids its writer bound. Secrets are taken
out of the finished line, so no nesting, exception or library gets around it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from trunkline.settings import Settings

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_CHATTY: Final = ("httpx2", "httpcore2", "asyncio", "mcp")
"""Libraries whose INFO is about every request or callback, URLs included."""

_REDACTED: Final = "[redacted]"
_SIGNS: Final = ("tlk_", "tls_", "tli_", "tlc_", "authorization", "bearer", "ticket=", "://")
_SECRETS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"tlk_[\w.~+/=-]+"), f"tlk_{_REDACTED}"),
    (re.compile(r"(tl[sic]_)[\w-]{32,}"), rf"\1{_REDACTED}"),
    (
        re.compile(
            r"(authorization\W{0,4}[:=,]\W{0,5}(?:(?:bearer|basic|digest|negotiate)\s+)?)"
            r"(?!(?:null|true|false|[\d.]+)[,}\]])[^\s\"'\\,\[]+",
            re.I,
        ),
        rf"\1{_REDACTED}",
    ),
    (re.compile(r"(\bbearer\s+)[\w.~+/-]{12,}=*", re.I), rf"\1{_REDACTED}"),
    (re.compile(r"(\bticket=)[\w.~%-]+", re.I), rf"\1{_REDACTED}"),
    (re.compile(r"(://[^\s/:@\"']*:)[^\s/@\"']+(?=@)"), rf"\1{_REDACTED}"),
)
"""What a secret looks like: our keys, tokens, invitations, codes; header values; tickets and passwords in a URL."""


def redact(text: str) -> str:
    """`text` without API keys and other secrets of ours, Authorization values, tickets and passwords in URLs."""
    lowered = text.lower()
    if any(sign in lowered for sign in _SIGNS):
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
    return text


class Stations:
    """Lines of the seven stations, at DEBUG, with the station's name as event.

    The message path asks `on` first, so that a call costs one attribute read per station while they are off:
    `if stations.on: stations.log("accept", call=call, tenant=tenant, session=session)`.
    """

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False
        """Whether anyone reads these lines: the log level is `debug`."""

    def log(self, station: str, **ids: Any) -> None:
        """Write one line: the station and the ids that tell which message it was."""
        structlog.get_logger("trunkline.stations").debug(station, **ids)


stations: Final = Stations()
"""This process's own, switched by `configure`."""


def default_pod() -> str:
    """Host and process id: a name that no other process of the deployment has at the same time."""
    return f"{socket.gethostname()}-{os.getpid()}"


def configure(settings: Settings, process: str, *, pod: str = "", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error), our own and those of libraries.

    Args:
        settings: `log_level` and `log_format` say what and how.
        process: `api`, `worker` or another name of what runs here.
        pod: which of them; host name and process id where empty.
        stream: where to, for tests.
    """
    out = stream or sys.stderr
    level = _LEVELS[settings.log_level]
    readable = settings.log_format == "console" or (settings.log_format == "auto" and out.isatty())
    structlog.configure(
        processors=_processors(process, pod or default_pod(), readable=readable, colors=out.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        # A cached logger would keep the stream of an earlier configuration.
        cache_logger_on_first_use=False,
    )
    _route_libraries(level)
    stations.on = level <= logging.DEBUG


def _processors(process: str, pod: str, *, readable: bool, colors: bool) -> list[Processor]:
    def name_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        event["pod"] = pod
        return event

    rendering: list[Processor] = (
        # A traceback with local variables, which rich would print, is a traceback with secrets.
        [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
        if readable
        else [structlog.processors.format_exc_info, _to_json]
    )
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
        *rendering,
        _redact_line,
    ]


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # What every line has comes first, so that a person finds it.
    line = {name: event.pop(name, None) for name in ("timestamp", "level", "event", "process", "pod")} | dict(event)
    try:
        return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        # A lone surrogate or an integer beyond 64 bits: the line matters more than the microseconds.
        text = json.dumps(line, default=repr, skipkeys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()


def _redact_line(_logger: WrappedLogger, _method: str, line: Any) -> str:
    return redact(line)


class _Bridge(logging.Handler):
    """Hands the lines of libraries to our renderer."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {"logger": record.name}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exc_info"] = record.exc_info
            level = max(10, min(record.levelno // 10 * 10, 50))
            structlog.get_logger(record.name).log(level, record.getMessage(), **fields)
        except Exception:  # noqa: BLE001 - the logging module's own contract: a bad line must not stop its writer
            self.handleError(record)


def _route_libraries(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    # Our own `debug` is about stations; that of libraries would drown it.
    root.setLevel(max(level, logging.INFO))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
