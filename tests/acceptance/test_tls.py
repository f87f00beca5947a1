"""`rediss://`: pods as processes on a Redis that speaks TLS alone, and what is said where it cannot be trusted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.acceptance.authority import Authority
from tests.acceptance.pods import deployed
from tests.acceptance.sessions import Session
from tests.stores import open_directory

from trunkline.dev.process import eventually, free_port, last_words, port_is_free, spawn
from trunkline.errors import StartRefused
from trunkline.settings import Settings
from trunkline.streams.client import Redis
from trunkline.streams.connection import ConnectionLost

_PROGRAMS = ("redis-server", "valkey-server")


def program_with_tls() -> str:
    """A Redis or Valkey of the PATH that was built with TLS, which none in a wheel is; empty if there is none."""
    for name in _PROGRAMS:
        if path := shutil.which(name):
            tried = subprocess.run(
                [path, "--port", "0", "--tls-port", "1"], capture_output=True, text=True, check=False, timeout=10
            )
            if "tls-cert-file" in tried.stdout:  # it misses its certificate, so it knows what that is
                return path
    return ""


@dataclass(frozen=True)
class Secured:
    """A Redis that wants TLS, and certificates of its clients; its own is for `localhost`."""

    port: int
    authority: Path
    client: tuple[Path, Path]

    def url(self, host: str = "localhost", authority: Path | None = None, more: str = "") -> str:
        certificate, key = self.client
        return (
            f"rediss://:secret@{host}:{self.port}/0?ssl_ca_certs={authority or self.authority}"
            f"&ssl_certfile={certificate}&ssl_keyfile={key}{more}"
        )


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    program = program_with_tls()
    if not program:
        pytest.skip(f"neither {' nor '.join(_PROGRAMS)} on the PATH speaks TLS")
    with open_directory() as directory:
        authority = Authority(directory, "authority")
        certificate, key = authority.certificate("localhost")
        port, log = free_port(), directory / "redis.log"
        options = {
            "port": "0", "tls-port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(directory),
            "requirepass": "secret", "tls-ca-cert-file": str(authority.file), "tls-cert-file": str(certificate),
            "tls-key-file": str(key), "tls-auth-clients": "yes", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        command = [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
        process = spawn(command, log=log, env=dict(os.environ))
        try:
            assert eventually(lambda: not port_is_free("127.0.0.1", port), 10), last_words(log)
            yield Secured(port, authority.file, authority.certificate("trunkline"))
        finally:
            process.terminate()
            process.wait(10)


async def test_calls_go_through_a_redis_that_speaks_tls_alone(
    secured: Secured, settings: Settings, tmp_path: Path
) -> None:
    async with deployed(settings.model_copy(update={"redis_url": secured.url()}), tmp_path) as deployment:
        pod, _ = await deployment.start(apis=1, workers=1)
        session = Session(deployment.key, [pod.url], pod.url)
        async with session.opened():
            assert await session.call("echo", text="in private") == "in private"


async def refused(settings: Settings, url: str) -> str:
    with pytest.raises(StartRefused) as refusal:
        await Redis.connect(settings.model_copy(update={"redis_url": url}), "test")
    assert "secret" not in refusal.value.message
    return refusal.value.message


async def test_an_authority_that_did_not_sign_it_is_told_at_the_start(
    secured: Secured, settings: Settings, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    assert f"certificate of localhost:{secured.port} does not convince" in await refused(
        settings, secured.url(authority=stranger.file)
    )


async def test_a_host_that_it_is_not_for_is_told_at_the_start(secured: Secured, settings: Settings) -> None:
    assert "not valid for '127.0.0.1'" in await refused(settings, secured.url("127.0.0.1"))


@pytest.mark.parametrize("more", ["&ssl_check_hostname=false", "&ssl_cert_reqs=none"])
async def test_what_is_not_to_be_verified_is_not_where_the_url_says_so(
    more: str, secured: Secured, settings: Settings
) -> None:
    settings = settings.model_copy(update={"redis_url": secured.url("127.0.0.1", more=more)})
    redis = await Redis.connect(settings, "test")
    assert await redis.command("PING") == b"PONG"
    await redis.aclose()


async def test_a_file_that_goes_missing_later_is_a_redis_that_is_away_for_a_while(
    secured: Secured, settings: Settings, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    shutil.copy(secured.authority, authority)
    redis = await Redis.connect(settings.model_copy(update={"redis_url": secured.url(authority=authority)}), "test")
    authority.unlink()
    with pytest.raises(ConnectionLost, match=r"ca\.pem"):
        await redis.dial("test")
    shutil.copy(secured.authority, authority)
    (await redis.dial("test")).close()
    await redis.aclose()


async def test_a_wrong_password_is_told_at_the_start(secured: Secured, settings: Settings) -> None:
    said = await refused(settings, secured.url().replace(":secret@", ":other@"))
    assert said.startswith(f"Redis at localhost:{secured.port} refuses the login: WRONGPASS")
