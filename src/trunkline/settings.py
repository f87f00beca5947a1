"""Every setting, with its default, its unit and its environment variable (`TRUNKLINE_` and the name in capitals).

Where SECRETS_DIR names a directory, a file in it that is named like a variable gives its value, as container engines
and orchestrators mount secrets. The environment wins.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SecretsSettingsSource, SettingsConfigDict, SettingsError

from trunkline.errors import StartRefused

CommaSeparated = Annotated[tuple[str, ...], NoDecode]

KNOWN_SECRETS = frozenset({"changeme", "secret", "development", "trunkline", "password", "insecure"})
SHORTEST_SECRET = 32


class Root(SecretStr):
    """The secret that everything at rest is encrypted and authenticated with, and further ones that still open it.

    While the root is changed, what was made with the one before, or by a pod that has the next one already, is good.
    """

    def __init__(self, secret: str, others: Sequence[SecretStr] = ()) -> None:
        super().__init__(secret)
        self.others = tuple(others)

    @classmethod
    def all_of(cls, root: SecretStr) -> list[SecretStr]:
        """A root and the others that open what it opens; itself first."""
        return [root, *(root.others if isinstance(root, cls) else ())]


class Settings(BaseSettings):
    """Configuration of one process, read from the environment and files once and never changed."""

    model_config = SettingsConfigDict(env_prefix="TRUNKLINE_", frozen=True, extra="ignore")

    environment: Literal["production", "dev"] = Field(
        "production", description="`dev` is set by `trunkline dev`; it alone may run on generated secrets."
    )
    secrets_dir: str = Field(
        "", description="Directory whose files, named like variables, give what the environment does not."
    )
    database_url: str = Field("", description="Postgres, as `postgresql://user:password@host:port/name`.")
    migration_database_url: str = Field(
        "",
        description="Postgres as the owner of the tables, for `trunkline migrate`; empty for DATABASE_URL.",
    )
    redis_url: str = Field(
        "",
        description="Redis 7.0 or newer or Valkey: `redis://`, `rediss://` (TLS), or by way of Sentinels "
        "`redis+sentinel://` and `rediss+sentinel://` (docs/redis.md).",
    )
    redis_sentinel_username: str = Field("", description="As whom to log in to the Sentinels; empty for `default`.")
    redis_sentinel_password: SecretStr = Field(
        SecretStr(""), description="Password of the Sentinels; empty where they want none."
    )
    redis_wait_replicas: int = Field(
        0, ge=0, le=10, description="Replicas that must have a call before it is accepted (WAIT); 0 for none."
    )
    redis_wait_timeout: float = Field(
        1.0, ge=0.1, le=2.5, description="Seconds that they have for it; after that the call is refused with 503."
    )
    redis_prefix: str = Field("tl1:", description="In front of every Redis key and channel of this deployment.")
    public_url: str = Field(
        "http://127.0.0.1:8000",
        description="Where clients reach this deployment; issuer of keys and part of their audience.",
    )
    secret_key: SecretStr = Field(
        SecretStr(""), description="Root of all encryption at rest, 32 characters or more. Required outside dev."
    )
    other_secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Further roots that open what is sealed, with commas: the one before SECRET_KEY, or the next."
    )
    servers: CommaSeparated = Field(
        (), description="MCP server objects to host, as `module:object`, comma-separated."
    )
    allowed_origins: CommaSeparated = Field(
        (),
        description="Origins of web pages that may connect besides the public URL's own and loopback; `*` for all.",
    )
    allowed_hosts: CommaSeparated = Field(
        (),
        description="Host names answered besides the public URL's, its subdomains and loopback; `*` for all.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="`debug` writes a line per station of each call."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )
    metrics_key: SecretStr = Field(
        SecretStr(""), description="Bearer token that `/metrics` asks for; empty leaves it open to the network."
    )

    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which a pod serves `/metrics` to anybody, 0 for none; API pods also at their own.",
    )

    otlp_endpoint: str = Field(
        "", description="Collector of traces, as OTLP over HTTP, such as `http://collector:4318`; empty: none."
    )
    trace_ratio: float = Field(0.01, ge=0, le=1, description="Share of calls that are traced, of 1.")
    trace_clients: bool = Field(
        False, description="Whether calls are traced, too, whose client says that its `traceparent` is sampled."
    )

    trusted_proxies: CommaSeparated = Field(
        ("127.0.0.1", "::1"),
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, with commas; `*` for all.",
    )

    max_body_bytes: int = Field(1_048_576, gt=0, description="Largest POST body, in bytes; beyond it 413.")
    max_json_elements: int = Field(100_000, gt=0, description="Most values in one JSON body; beyond it 400.")
    head_timeout: float = Field(10.0, gt=0, description="Seconds within which a request's head must arrive.")
    body_timeout: float = Field(10.0, gt=0, description="Seconds within which a POST body must arrive whole.")
    keepalive_interval: float = Field(15.0, gt=0, le=60, description="Seconds between SSE comments on a stream.")
    stream_buffer_messages: int = Field(1_000, gt=0, description="Messages kept for a slow reader before disconnect.")
    stream_buffer_bytes: int = Field(1_048_576, gt=0, description="Bytes kept for a slow reader before disconnect.")
    stream_write_timeout: float = Field(10.0, gt=0, description="Seconds one write may stall before disconnect.")
    ticket_lifetime: int = Field(60, gt=0, description="Seconds a browser's one-time ticket is good for.")

    lanes: int = Field(
        16, gt=0, le=1024, description="Lanes that tenants are spread over; the same in every process, for good."
    )
    lane_max_length: int = Field(10_000, gt=0, description="Calls waiting in a lane; beyond it 503.")
    audit_max_backlog: int = Field(
        1_000_000, gt=0, description="Audit events of a lane not yet in Postgres; beyond it 503."
    )
    session_ttl: int = Field(1_800, gt=0, description="Seconds a session lives without stream or request.")
    outbox_ttl: int = Field(600, gt=0, description="Seconds a sent message is kept for a client that resumes.")
    outbox_max_messages: int = Field(1_000, gt=0, description="Messages kept for a client that resumes.")
    outbox_max_bytes: int = Field(8_388_608, gt=0, description="Bytes kept for a client that resumes.")

    tenant_rate: float = Field(2_000.0, gt=0, description="Messages a second of one tenant, default limit.")
    tenant_burst: int = Field(4_000, gt=0, description="Messages of one tenant at once, default limit.")
    tenant_in_flight: int = Field(1_000, gt=0, description="Unanswered requests of one tenant, default limit.")
    tenant_sessions: int = Field(10_000, gt=0, description="Live sessions of one tenant, default limit.")

    tenant_keys: int = Field(
        1_000, gt=0, description="Keys of one tenant that have not expired, revoked ones included; beyond it 409."
    )
    tenant_listeners: int = Field(
        1_000, gt=0, description="Streams of `subscriptions/listen` of one tenant on each API pod."
    )

    session_rate: float = Field(200.0, gt=0, description="Sessions that a tenant may open in a second.")
    session_burst: int = Field(2_000, gt=0, description="Sessions that a tenant may open at once.")

    public_rate: float = Field(
        20.0, gt=0, description="Requests a second from one address to a public tenant, on each API pod."
    )
    public_burst: int = Field(100, gt=0, description="Requests at once from one address to a public tenant.")

    call_timeout: float = Field(60.0, gt=0, description="Seconds a call may take; progress starts them anew.")
    call_timeout_max: float = Field(600.0, gt=0, description="Seconds a call may take in all, progress or not.")
    client_timeout: float = Field(
        300.0,
        gt=0,
        description="Seconds that a client has to answer a request of a tool (sampling, elicitation, roots).",
    )
    concurrency: int = Field(64, gt=0, le=10_000, description="Calls that one worker runs at once.")
    drain_delay: float = Field(
        3.0, ge=0, description="Seconds that a stopping API pod still answers on its port, for proxies to notice."
    )
    drain_timeout: float = Field(30.0, gt=0, description="Seconds that a stopping process gives what it has begun.")

    control: bool = Field(True, description="Whether this API pod serves the control plane, `/v1`.")
    signup: Literal["open", "invite", "closed"] = Field(
        "closed", description="Who may sign up: anybody, holders of a code, nobody. `trunkline dev` opens it."
    )
    sign_in_lifetime: int = Field(43_200, gt=0, description="Seconds a browser stays signed in without a request.")
    token_lifetime: int = Field(3_600, gt=0, description="Seconds a token of `POST /v1/tokens` is good for.")
    invitation_lifetime: int = Field(
        604_800, gt=0, description="Seconds an invitation and a sign-up code are good for."
    )
    smtp_url: SecretStr = Field(
        SecretStr(""),
        description="Mail server, `smtp://user:password@host:port` or `smtps://`; empty: invitations are shown.",
    )
    mail_from: str = Field("", description="Sender of mail; needed with SMTP_URL.")
    sign_in_rate: float = Field(10.0, gt=0, description="Sign-ins a minute from one address, of IPv6 one /64.")
    account_rate: float = Field(5.0, gt=0, description="Sign-ins a minute to one account from one address.")
    signup_rate: float = Field(10.0, gt=0, description="Sign-ups an hour from one address.")
    control_rate: float = Field(50.0, gt=0, description="Requests a second to `/v1` of one caller, on each API pod.")
    control_burst: int = Field(200, gt=0, description="Requests at once to `/v1` of one caller.")
    longest_key: float = Field(366.0, gt=0, le=3_660, description="Days that an API key lives at most.")
    audit_retention_months: int = Field(
        0, ge=0, le=1_200, description="Full months that the audit log is kept, 0 for ever."
    )
    export_rows: int = Field(1_000, gt=0, le=5_000, description="Rows of an export held in memory at once.")

    @field_validator(
        "servers", "allowed_origins", "allowed_hosts", "trusted_proxies", "other_secret_keys", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ip_network("::/0" if each == "*" else each, strict=False)
            except ValueError as error:
                raise ValueError("TRUSTED_PROXIES are addresses, networks such as 10.0.0.0/8, or *") from error
        return value

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("PUBLIC_URL must be an http or https URL without query")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.call_timeout_max < self.call_timeout:
            raise ValueError("CALL_TIMEOUT_MAX is shorter than CALL_TIMEOUT")
        if self.session_ttl <= self.call_timeout_max:
            raise ValueError("SESSION_TTL is not longer than CALL_TIMEOUT_MAX: a session would end before its calls")
        if self.session_ttl < self.outbox_ttl:
            raise ValueError("SESSION_TTL is shorter than OUTBOX_TTL: a session would end before what it still holds")
        if self.smtp_url.get_secret_value():
            if urlsplit(self.smtp_url.get_secret_value()).scheme not in {"smtp", "smtps"}:
                raise ValueError("SMTP_URL must begin with smtp:// or smtps://")
            if "@" not in self.mail_from:
                raise ValueError("MAIL_FROM must be an address where SMTP_URL is set: mail needs a sender")
        if self.environment == "production":
            self._check_production()
        return self

    def _check_production(self) -> None:
        secret = self.secret_key.get_secret_value()
        if len(secret) < SHORTEST_SECRET or secret.lower() in KNOWN_SECRETS or len(set(secret)) < 8:
            raise ValueError(
                "SECRET_KEY must be 32 or more characters that nobody can guess, as from: openssl rand -hex 32"
            )
        if self.signup != "closed" and not self.public_url.startswith("https:"):
            raise ValueError("SIGNUP needs an https PUBLIC_URL outside dev: passwords would travel in the clear")

    @property
    def root(self) -> Root:
        """`secret_key`, with the others that open what it opens."""
        return Root(self.secret_key.get_secret_value(), self.other_secret_keys)

    @cached_property
    def public_host(self) -> str:
        """The host name of `public_url`, lower case, without port."""
        return (urlsplit(self.public_url).hostname or "").lower()

    @cached_property
    def public_origin(self) -> str:
        """The origin of `public_url` (RFC 6454)."""
        parts = urlsplit(self.public_url)
        return f"{parts.scheme}://{parts.netloc}"

    def tenant_url(self, slug: str) -> str:
        """The tenant's base URL: the audience of its keys (RFC 7519, section 4.1.3)."""
        return f"{self.public_url}/t/{slug}"


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment and from the files of SECRETS_DIR; `overrides` win.

    Raises:
        StartRefused: a value is missing, malformed or contradicts another, or a file cannot be read; the sentence
            says which.
    """
    in_files = {key: value for key, value in _read_files(os.environ).items() if not os.environ.get(_variable(key))}
    try:
        return Settings(**(in_files | overrides))  # type: ignore[arg-type]
    except ValidationError as error:
        sentences = []
        for problem in error.errors():
            name = "".join(f"TRUNKLINE_{part}".upper() for part in problem["loc"][:1])
            text = problem["msg"].removeprefix("Value error, ")
            sentences.append(f"{name}: {text}" if name else f"TRUNKLINE_{text}")
        raise StartRefused("; ".join(sentences)) from error


def with_files(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, completed with what the files of SECRETS_DIR hold; what is set in the environment wins.

    Raises:
        StartRefused: the directory is none, or a file in it cannot be read.
    """
    found = {_variable(key): value for key, value in _read_files(environment).items()}
    return found | {name: value for name, value in environment.items() if value or name not in found}


def _variable(field: str) -> str:
    return f"TRUNKLINE_{field.upper()}"


def _read_files(environment: Mapping[str, str]) -> dict[str, str]:
    """What files give, by field."""
    directory = environment.get("TRUNKLINE_SECRETS_DIR")
    if not directory:
        return {}
    if not Path(directory).is_dir():
        raise StartRefused(f"TRUNKLINE_SECRETS_DIR: {directory} is no directory that can be read here.")
    try:
        with warnings.catch_warnings(action="error"):  # of a file that is passed over: nothing here is by mistake
            read = SecretsSettingsSource(Settings, secrets_dir=directory)()
    except SettingsError as error:
        raise StartRefused(f"TRUNKLINE_SECRETS_DIR: {error.__cause__ or error}") from error
    return {key: str(value) for key, value in read.items()}
