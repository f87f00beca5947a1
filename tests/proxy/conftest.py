"""A real nginx, configured as for production, in front of two API pods and two workers; started once for a module."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from faults.front import find_nginx, running
from tests.acceptance.pods import Deployment, populate
from tests.sse import PATIENCE, Stream
from tests.stores import TestStores, open_directory

from trunkline.dev.process import free_port
from trunkline.settings import load_settings

DOMAIN = "example.test"
HOME = Path(__file__).resolve().parents[2] / "nginx"


@dataclass
class Front:
    """nginx, and what is behind it."""

    deployment: Deployment
    home: Path
    https: int
    http: int
    process: subprocess.Popen[bytes]
    secrets: list[str] = field(default_factory=list)
    """What must be in no log."""

    @property
    def key(self) -> str:
        return self.deployment.key

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.home / "certificate.pem"))

    def client(self, host: str, source: str = "127.0.0.1") -> httpx2.AsyncClient:
        """A client that takes nginx for that host, and is at that address."""
        transport = _Named(host, verify=self.tls, local_address=source)
        timeout = httpx2.Timeout(PATIENCE, read=2 * PATIENCE)
        headers = {"host": host}
        return httpx2.AsyncClient(transport=transport, base_url=self.base, headers=headers, timeout=timeout)

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.https}"

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @asynccontextmanager
    async def stream(
        self, host: str = DOMAIN, path: str = "/t/demo/sse", last_event_id: str = ""
    ) -> AsyncIterator[Stream]:
        """An open stream at that host."""
        resume = {"last-event-id": last_event_id} if last_event_id else {}
        async with self.client(host) as http, http.stream("GET", path, headers=self.bearer | resume) as response:
            assert response.status_code == 200, await response.aread()
            opened = await Stream(self.base, http, response, self.bearer).begin()
            self.secrets.append(opened.session)
            yield opened

    def logs(self) -> str:
        """All that nginx and the pods have written."""
        return "".join(path.read_text() for path in (self.home / "log", *(pod.log for pod in self.deployment.pods)))


class _Named(httpx2.AsyncHTTPTransport):
    """Says in TLS which host it wants, whatever the address."""

    def __init__(self, host: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._host = host

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions = {**request.extensions, "sni_hostname": self._host}
        return await super().handle_async_request(request)


@pytest.fixture(scope="module")
def front(stores: TestStores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    if not find_nginx():
        pytest.skip("there is no nginx on the PATH (Debian: nginx-light)")
    directory = tmp_path_factory.mktemp("proxy")
    with stores.fresh_database() as url:
        settings = load_settings(
            environment="dev",
            database_url=url,
            redis_url=stores.redis_url,
            redis_prefix=f"test-{secrets.token_hex(6)}:",
            secret_key=secrets.token_hex(32),
            public_url=f"https://{DOMAIN}",
            drain_delay=0,
            stream_write_timeout=1.0,
            log_level="debug",
        )

        async def start() -> Deployment:
            deployment = Deployment(settings, directory, await populate(settings))
            await deployment.start(apis=2, workers=2)
            return deployment

        # In a thread: a fixture of a module has no event loop of a test.
        with ThreadPoolExecutor(1) as threads:
            deployment = threads.submit(asyncio.run, start()).result(120)
        try:
            with open_directory() as place:  # nginx' own user has to get to its temporary files
                home, https, http = place / "nginx", free_port(), free_port()
                _configure(home, deployment, https, http)
                with running(home, https) as process:
                    yield Front(deployment, home, https, http, process, [deployment.key])
        finally:
            deployment.end()


def _configure(home: Path, deployment: Deployment, https: int, http: int) -> None:
    """Render the template; times and limits are made short, so that tests reach them."""
    home.mkdir()
    _certify(home)
    pods = "\n".join(
        f"server 127.0.0.1:{pod.port} max_fails=1 fail_timeout=2s;" for pod in deployment.pods if pod.url
    )
    variables = {
        "NGINX_DOMAIN": DOMAIN,
        "NGINX_CERTIFICATE": str(home / "certificate.pem"),
        "NGINX_CERTIFICATE_KEY": str(home / "key.pem"),
        "NGINX_PODS": pods,
        "NGINX_HTTPS_PORT": f"127.0.0.1:{https}",
        "NGINX_HTTP_PORT": f"127.0.0.1:{http}",
    }
    subprocess.run([HOME / "render", home], env=os.environ | variables, check=True, timeout=30)
    _change(home / "nginx.conf", ("/tmp/trunkline-nginx", str(home / "tmp")))
    _change(home / "nginx.conf", ("worker_processes auto", "worker_processes 2"))
    _change(home / "nginx.conf", ("worker_shutdown_timeout 30s", "worker_shutdown_timeout 1s"))
    _change(home / "trunkline" / "http.conf", ("client_header_timeout 10s", "client_header_timeout 1s"))
    _change(home / "trunkline" / "http.conf", ("client_body_timeout   10s", "client_body_timeout 1s"))
    _change(home / "trunkline" / "http.conf", ("rate=500r/s", "rate=2r/s"))
    _change(home / "trunkline" / "common.conf", ("burst=2000", "burst=5"))


def _change(path: Path, change: tuple[str, str]) -> None:
    text = path.read_text()
    assert change[0] in text, change
    path.write_text(text.replace(*change))


def _certify(home: Path) -> None:
    """A certificate for the domain and its tenants, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(DOMAIN), x509.DNSName(f"*.{DOMAIN}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (home / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
