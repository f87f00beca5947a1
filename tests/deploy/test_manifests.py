"""What nginx/ says of the program is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from trunkline.api.run import _KEEP_ALIVE
from trunkline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


NGINX = (ROOT / "nginx" / "nginx.conf").read_text()


def nginx(directive: str) -> list[str]:
    return re.findall(rf"^\s*{directive}\s+([^;]+);", NGINX, re.MULTILINE)


def seconds(value: str) -> int:
    return int(value.removesuffix("s"))


def test_nginx_passes_streams_on_as_they_come() -> None:
    assert nginx("proxy_buffering") == ["off"]
    assert nginx("gzip") == ["off"]
    assert nginx("proxy_http_version") == ["1.1"]
    assert 'Connection ""' in nginx("proxy_set_header")
    assert min(map(seconds, nginx("proxy_read_timeout"))) >= 2 * DEFAULTS["keepalive_interval"]


def test_nginx_hangs_up_on_idle_pods_before_they_do() -> None:
    assert max(map(seconds, nginx("keepalive_timeout"))) < _KEEP_ALIVE


def test_nginx_sticks_no_client_to_a_pod() -> None:
    assert not re.search(r"ip_hash|\bhash\b|sticky", NGINX.split("upstream trunkline {")[1].split("}")[0])


def test_nginx_leaves_the_body_limit_to_the_pods() -> None:
    (limit,) = nginx("client_max_body_size")
    assert int(limit.removesuffix("m")) * 1024**2 > DEFAULTS["max_body_bytes"]


def test_nginx_logs_no_query_and_no_header() -> None:
    (line,) = re.findall(r"log_format .*?;", NGINX, re.DOTALL)
    logged = set(re.findall(r"\$\w+", line))
    assert not logged & {"$request", "$request_uri", "$args", "$query_string"}
    assert not [name for name in logged if name.startswith(("$http_", "$arg_", "$sent_http_", "$cookie_"))]
    # nginx's own lines about requests repeat them with their query.
    assert [value.split()[1] for value in nginx("error_log")] == ["crit"]
    assert nginx("access_log") == ["/dev/stdout paths"]


def test_nginx_tells_pods_the_address_of_the_client_and_nothing_that_it_claims() -> None:
    assert "X-Forwarded-For $remote_addr" in nginx("proxy_set_header")
    assert "Host $http_host" in nginx("proxy_set_header")


def test_nginx_answers_errors_of_its_own_in_json() -> None:
    bodies = re.findall(r"return (\d+) '(.+)';", NGINX)
    assert {status for status, _ in bodies} == {"404", "413", "502"}
    assert all(orjson.loads(body)["error"]["message"] for _, body in bodies)
