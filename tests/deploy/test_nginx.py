"""What nginx/ says of the program is what the program does, in both configurations."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from trunkline.api.run import _KEEP_ALIVE
from trunkline.settings import Settings

HOME = Path(__file__).resolve().parents[2] / "nginx"
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
MAIN = [(HOME / name).read_text() for name in ("nginx.conf", "production.conf.template")]
SHARED = {path.stem: path.read_text() for path in (HOME / "trunkline").glob("*.conf")}
EVERYTHING = [*MAIN, *SHARED.values()]


def values(directive: str) -> list[str]:
    text = "\n".join(EVERYTHING)
    return re.findall(rf"^\s*{directive}\s+([^;]+);", text, re.MULTILINE)


def seconds(value: str) -> int:
    return int(value.removesuffix("s"))


def test_streams_are_passed_on_as_they_come() -> None:
    assert values("proxy_buffering") == ["off"]
    assert values("gzip") == ["off"]
    assert values("proxy_http_version") == ["1.1"]
    assert 'Connection ""' in values("proxy_set_header")
    assert min(map(seconds, values("proxy_read_timeout"))) >= 2 * DEFAULTS["keepalive_interval"]


def test_a_post_that_is_silent_until_its_answer_has_the_time_of_a_call() -> None:
    (timeout,) = re.findall(r"proxy_read_timeout (\d+s);", SHARED["held"])
    assert seconds(timeout) > DEFAULTS["call_timeout_max"]
    assert all("include trunkline/held.conf;" in SHARED[part] for part in ("server", "tenant"))


def test_it_hangs_up_on_idle_pods_before_they_do() -> None:
    for text in MAIN:
        upstream = text.split("upstream trunkline {")[1].split("\n    }\n")[0]
        (timeout,) = re.findall(r"keepalive_timeout (\d+s);", upstream)
        assert seconds(timeout) < _KEEP_ALIVE


def test_no_client_sticks_to_a_pod() -> None:
    for text in MAIN:
        assert not re.search(r"ip_hash|\bhash\b|sticky", text.split("upstream trunkline {")[1].split("\n    }\n")[0])


def test_the_body_limit_is_left_to_the_pods() -> None:
    (limit,) = values("client_max_body_size")
    assert int(limit.removesuffix("m")) * 1024**2 > DEFAULTS["max_body_bytes"]


def test_heads_and_bodies_have_the_time_that_pods_give_them() -> None:
    assert values("client_header_timeout") == [f"{DEFAULTS['head_timeout']:.0f}s"]
    assert values("client_body_timeout") == [f"{DEFAULTS['body_timeout']:.0f}s"]


def test_no_query_and_no_header_is_logged() -> None:
    (line,) = re.findall(r"^log_format .*?;", SHARED["http"], re.DOTALL | re.MULTILINE)
    logged = set(re.findall(r"\$\w+", line))
    assert not logged & {"$request", "$request_uri", "$args", "$query_string"}
    assert not [name for name in logged if name.startswith(("$http_", "$arg_", "$sent_http_", "$cookie_"))]
    # nginx's own lines about requests repeat them with their query.
    assert {value.split()[1] for value in values("error_log")} == {"crit"}
    assert values("access_log") == ["/dev/stdout trunkline"]


def test_pods_are_told_the_address_of_the_client_and_nothing_that_it_claims() -> None:
    assert "X-Forwarded-For $remote_addr" in values("proxy_set_header")
    assert "Host $http_host" in values("proxy_set_header")


def test_errors_of_its_own_are_in_json() -> None:
    bodies = re.findall(r"return (\d+) '(.+)';", "\n".join(EVERYTHING))
    assert {status for status, _ in bodies} == {"400", "403", "404", "405", "408", "413", "421", "429", "500", "502"}
    assert all(orjson.loads(body)["error"]["message"] for _, body in bodies)


def test_both_configurations_are_made_of_the_same_parts() -> None:
    for text in MAIN:
        included = set(re.findall(r"include trunkline/(\w+)\.conf;", text))
        assert {"http", "server", "tenant"} <= included
    assert set(re.findall(r"include trunkline/(\w+)\.conf;", "\n".join(EVERYTHING))) == set(SHARED)


def test_the_template_names_each_variable_that_it_takes() -> None:
    _, template = MAIN
    taken = set(re.findall(r"\$\{(NGINX_[A-Z_]+)\}", template))
    explained = set(re.findall(r"NGINX_[A-Z_]+", template.split("daemon off")[0]))
    assert taken - {"NGINX_DOMAIN_PATTERN"} <= explained
