"""Where Redis is and how it is reached: what TRUNKLINE_REDIS_URL says.

`redis://` and `rediss://` (TLS) name a server, `unix://` a socket, `redis+sentinel://` and `rediss+sentinel://` the
Sentinels that know which server is the primary: `redis+sentinel://user:password@host:26379,host:26379/service/database`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import unquote

from redis.asyncio.connection import parse_url

from trunkline.errors import StartRefused

_SENTINEL_PORT = 26379
_SENTINEL: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_FORMS = "redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://"
_CERTAIN: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_TLS: Final = frozenset(
    {
        "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
        "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
    }
)  # fmt: skip
"""Options of TLS in the URL's query, named and meant as redis-py's."""


class Place(NamedTuple):
    """A server's address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_HERE = Place("localhost", 6379)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A server, or the Sentinels that know it, and as whom to log in there."""

    place: Place = _HERE
    path: str = ""
    """Of a Unix socket; then `place` means nothing."""
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: Mapping[str, Any] | None = None
    """Options of TLS; None where there is none."""
    sentinels: tuple[Place, ...] = ()
    """Where `place` is asked for; empty where it is known."""
    service: str = ""
    """The name by which Sentinels know the primary."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            StartRefused: it is none of ours; the sentence does not show it, for there is a password in it.
        """
        scheme, _, rest = url.partition("://")
        try:
            if scheme in _SENTINEL:
                return cls._parse_sentinels(_SENTINEL[scheme], rest)
            return cls._from(cast("dict[str, Any]", parse_url(url)))
        except ValueError as error:
            if scheme in {*_SENTINEL, "redis", "rediss", "unix"}:
                raise StartRefused(f"TRUNKLINE_REDIS_URL cannot be read: {error}.") from error
            raise StartRefused(f"TRUNKLINE_REDIS_URL must begin with {_FORMS}.") from error

    @classmethod
    def _parse_sentinels(cls, scheme: str, rest: str) -> Self:
        authority, _, path = rest.partition("?")[0].partition("/")
        login, _, hosts = authority.rpartition("@")
        service, _, database = path.partition("/")
        if not service:
            raise ValueError("after the Sentinels it names the primary, as in redis+sentinel://host:26379/mymaster")
        if database and not database.isdecimal():
            raise ValueError("what follows the primary's name is the number of a database")
        sentinels = tuple(_place(each) for each in hosts.split(","))
        query = rest.partition("?")[2]
        plain = f"{scheme}://{login}{'@' if login else ''}sentinel/{database or 0}?{query}"
        read = cls._from(cast("dict[str, Any]", parse_url(plain)))
        return replace(read, sentinels=sentinels, service=unquote(service))

    @classmethod
    def _from(cls, target: dict[str, Any]) -> Self:
        tls = {name: value for name, value in target.items() if name.startswith("ssl_")}
        if unknown := sorted(tls.keys() - _TLS):
            raise ValueError(f"there is no option {unknown[0]}; there are {', '.join(sorted(_TLS))}")
        if tls.get("ssl_cert_reqs", "required") not in _CERTAIN:
            raise ValueError("ssl_cert_reqs is required, optional or none")
        encrypted = "SSL" in getattr(target.get("connection_class"), "__name__", "")
        if tls and not encrypted:
            raise ValueError("options of TLS need rediss://")
        return cls(
            Place(target.get("host", "localhost"), target.get("port", 6379)),
            target.get("path", ""),
            target.get("username", ""),
            target.get("password", ""),
            target.get("db", 0),
            tls if encrypted else None,
        )

    def __str__(self) -> str:
        """For people; without a secret."""
        return self.path or str(self.place)

    def at(self, place: Place) -> Self:
        """The same login and encryption at a known server."""
        return replace(self, place=place, sentinels=(), service="")

    def sentinel(self, place: Place, username: str, password: str) -> Self:
        """One of the Sentinels, which have a login of their own."""
        return replace(self.at(place), username=username, password=password, database=0)

    def context(self) -> ssl.SSLContext | None:
        """What TLS is spoken with, files read anew; None where it is not.

        Certificates and host names are verified unless the URL says otherwise. Where it names authorities, they are
        trusted alone.

        Raises:
            StartRefused: a file is missing or not what it should be.
        """
        if self.tls is None:
            return None
        tls = self.tls
        try:
            context = ssl.create_default_context(cafile=tls.get("ssl_ca_certs"), capath=tls.get("ssl_ca_path"))
            if certificate := tls.get("ssl_certfile"):
                context.load_cert_chain(certificate, tls.get("ssl_keyfile"), tls.get("ssl_password"))
            if ciphers := tls.get("ssl_ciphers"):
                context.set_ciphers(ciphers)
        except OSError as error:  # ssl.SSLError among them
            named = tls.get("ssl_ca_certs") or tls.get("ssl_ca_path") or tls.get("ssl_certfile")
            raise StartRefused(f"What TRUNKLINE_REDIS_URL says of TLS cannot be used ({named}): {error}.") from error
        if least := tls.get("ssl_min_version"):
            context.minimum_version = ssl.TLSVersion(least)
        certain = _CERTAIN[tls.get("ssl_cert_reqs", "required")]
        context.check_hostname = tls.get("ssl_check_hostname", True) and certain is not ssl.CERT_NONE
        context.verify_mode = certain
        return context


def _place(text: str) -> Place:
    """`host`, `host:port` or `[IPv6]:port`, of a Sentinel."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text.strip(), str(_SENTINEL_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal():
        raise ValueError("Sentinels are given as host:port, with commas between them")
    return Place(unquote(host), int(port))
