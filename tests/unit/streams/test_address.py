"""What TRUNKLINE_REDIS_URL says."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from trunkline.errors import StartRefused
from trunkline.logs import redact
from trunkline.streams.address import Place, RedisAddress

parse = RedisAddress.parse


def test_a_url_names_server_login_and_database() -> None:
    found = parse("redis://me:s%2Fe@redis.example:7000/3")
    assert (found.place, found.username, found.password, found.database) == (
        Place("redis.example", 7000), "me", "s/e", 3,
    )  # fmt: skip
    assert (found.tls, found.sentinels) == (None, ())
    assert parse("redis://:secret@localhost").password == "secret"
    assert parse("unix:///run/redis.sock?db=2").path == "/run/redis.sock"


def test_sentinels_are_a_list_and_know_the_primary_by_a_name() -> None:
    found = parse("redis+sentinel://:pw@one:26379,two,[::1]:26380,[fe80::2]/mymaster/4")
    assert found.sentinels == (
        Place("one", 26379), Place("two", 26379), Place("::1", 26380), Place("fe80::2", 26379),
    )  # fmt: skip
    assert (found.service, found.password, found.database, found.tls) == ("mymaster", "pw", 4, None)
    there = found.at(Place("10.0.0.9", 6379))
    assert (there.place.host, there.password, there.database, there.sentinels) == ("10.0.0.9", "pw", 4, ())


def test_sentinels_have_a_login_of_their_own_and_no_database() -> None:
    found = parse("rediss+sentinel://data:pw@one/mymaster/4?ssl_cert_reqs=none")
    asked = found.sentinel(found.sentinels[0], "guard", "other")
    assert (asked.place, asked.username, asked.password, asked.database) == (Place("one", 26379), "guard", "other", 0)
    assert asked.tls == found.tls == {"ssl_cert_reqs": "none"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with"),
        ("http://:hunter2@localhost", "must begin with"),
        ("redis+sentinel://:hunter2@one:26379", "names the primary"),
        ("redis+sentinel://:hunter2@one:x/mymaster", "host:port"),
        ("redis+sentinel://:hunter2@/mymaster", "host:port"),
        ("redis+sentinel://:hunter2@one/mymaster/zero", "number of a database"),
        ("redis://:hunter2@localhost:port", "cannot be read"),
        ("rediss://:hunter2@localhost?ssl_cert_reqs=no", "required, optional or none"),
        ("rediss://:hunter2@localhost?ssl_verify=no", "no option ssl_verify"),
        ("redis://:hunter2@localhost?ssl_ca_certs=ca.pem", "need rediss://"),
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(StartRefused, match=reason) as refused:
        parse(url)
    assert "hunter2" not in str(refused.value)


def test_certificates_and_host_names_are_verified_unless_the_url_says_otherwise() -> None:
    def found(query: str) -> tuple[ssl.VerifyMode, bool]:
        context = parse(f"rediss://localhost{query}").context()
        assert context is not None
        return context.verify_mode, context.check_hostname

    assert found("") == (ssl.CERT_REQUIRED, True)
    assert found("?ssl_check_hostname=false") == (ssl.CERT_REQUIRED, False)
    assert found("?ssl_cert_reqs=none") == (ssl.CERT_NONE, False)
    assert parse("redis://localhost").context() is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"cannot be used \(.*ca\.pem\)"):
        parse(f"rediss://localhost?ssl_ca_certs={tmp_path}/ca.pem").context()


@pytest.mark.parametrize(
    "url", ["redis+sentinel://:hunter2@one:26379,two:26379/m/0", "rediss+sentinel://u:hunter2@o/m"]
)
def test_passwords_of_every_form_are_taken_out_of_logs_and_out_of_what_is_printed(url: str) -> None:
    assert "hunter2" not in redact(f"could not reach {url}")
    assert "hunter2" not in f"{parse(url)!r} {parse(url)}"
