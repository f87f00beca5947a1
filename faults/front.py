"""nginx in front of the API pods, configured as the project's own `nginx/nginx.conf`, with other ports and paths."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGINT, SIGTERM

from faults import ROOT
from faults.pods import ScenarioError
from trunkline.dev.process import end, eventually, free_port, port_is_free, spawn


def find_nginx() -> str:
    """Where nginx is; empty where it is not installed."""
    return shutil.which("nginx") or ""


@contextlib.contextmanager
def nginx(directory: Path, ports: Sequence[int]) -> Iterator[str]:
    """Run it in front of these ports until the end of the block; its URL. Call it from the main thread."""
    port = free_port()
    home = directory / "nginx"
    configure(home, port, ports)
    with running(home, port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def running(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run nginx as configured in `home`, to listen on `port`, until the end of the block; it logs to `home/log`."""
    log = home / "log"
    process = spawn(
        [find_nginx(), "-p", home, "-c", home / "nginx.conf"], log=log, env={"LC_ALL": "C"}, directory=home,
        on_parent_death=SIGTERM,
    )  # fmt: skip
    try:
        eventually(lambda: not port_is_free("127.0.0.1", port) or process.poll() is not None, 10)
        if process.poll() is not None or port_is_free("127.0.0.1", port):
            raise ScenarioError(f"nginx does not listen: {log.read_text()[-500:]}")
        yield process
    finally:
        end(process, (SIGTERM, 5.0), (SIGINT, 1.0))


def configure(home: Path, port: int, ports: Sequence[int]) -> None:
    """Write the configuration into a new directory, to listen on `port` in front of `ports`."""
    shutil.copytree(ROOT / "nginx" / "trunkline", home / "trunkline")
    text = (ROOT / "nginx" / "nginx.conf").read_text()
    text = text.replace("/tmp/trunkline-nginx", str(home / "tmp"))
    first, *others = re.findall(r"^\s*server 127\.0\.0\.1:\d+ [^\n]*\n", text, re.MULTILINE)
    for other in others:
        text = text.replace(other, "")
    text = text.replace(first, "".join(re.sub(r":\d+", f":{each}", first) for each in ports))
    text = text.replace("listen 127.0.0.1:8080", f"listen 127.0.0.1:{port}")
    (home / "nginx.conf").write_text(re.sub(r"worker_processes \w+;", "worker_processes 1;", text))
