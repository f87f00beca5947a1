from __future__ import annotations

import pytest

from trunkline.errors import StartRefused
from trunkline.settings import Settings, load_settings

GOOD_SECRET = "3f9c1b7a5d2e8f4061c7a9b3d5e7f1024b6d8f0a"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"call_timeout": 60, "call_timeout_max": 59}, "CALL_TIMEOUT_MAX is shorter than CALL_TIMEOUT"),
        ({"session_ttl": 700, "outbox_ttl": 701}, "SESSION_TTL is shorter than OUTBOX_TTL"),
        ({"session_ttl": 600, "outbox_ttl": 60}, "SESSION_TTL is not longer than CALL_TIMEOUT_MAX"),
        ({"public_url": "trunkline.example"}, "TRUNKLINE_PUBLIC_URL: PUBLIC_URL must be an http or https URL"),
        ({"public_url": "ftp://trunkline.example"}, "PUBLIC_URL must be"),
        ({"public_url": "https://trunkline.example/?a=b"}, "PUBLIC_URL must be"),
        ({"lanes": 0}, "TRUNKLINE_LANES: Input should be greater than 0"),
        ({"lanes": "many"}, "TRUNKLINE_LANES: Input should be a valid integer"),
        ({"keepalive_interval": 61}, "TRUNKLINE_KEEPALIVE_INTERVAL"),
        ({"log_level": "loud"}, "TRUNKLINE_LOG_LEVEL"),
    ],
)
def test_values_that_cannot_be_or_contradict_each_other_stop_the_start(
    values: dict[str, object], sentence: str
) -> None:
    with pytest.raises(StartRefused) as refused:
        load_settings(environment="dev", **values)
    assert sentence in refused.value.message
    assert "\n" not in refused.value.message


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(StartRefused) as refused:
        load_settings(environment="dev", lanes=0, concurrency=0)
    assert "TRUNKLINE_LANES" in refused.value.message
    assert "TRUNKLINE_CONCURRENCY" in refused.value.message


@pytest.mark.parametrize("secret", ["", "changeme", "secret", "short", "a" * 64, "ab" * 32, GOOD_SECRET[:31]])
def test_production_does_not_start_on_a_secret_that_can_be_guessed(secret: str) -> None:
    with pytest.raises(StartRefused) as refused:
        load_settings(secret_key=secret)
    assert "openssl rand -hex 32" in refused.value.message
    assert not secret or f"{secret} " not in refused.value.message


def test_production_starts_on_a_good_secret_and_dev_without_one() -> None:
    assert load_settings(secret_key=GOOD_SECRET).environment == "production"
    assert load_settings(environment="dev").environment == "dev"


def test_no_secret_is_in_what_is_printed_of_settings() -> None:
    settings = load_settings(secret_key=GOOD_SECRET, metrics_key="m" * 40)
    assert GOOD_SECRET not in repr(settings)
    assert "m" * 40 not in repr(settings)


def test_variables_of_the_environment_are_read_and_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_ENVIRONMENT", "dev")
    monkeypatch.setenv("TRUNKLINE_SERVERS", "one:mcp, two:make , ")
    monkeypatch.setenv("TRUNKLINE_LANES", "8")
    monkeypatch.setenv("TRUNKLINE_UNKNOWN", "is not ours to judge")
    settings = load_settings(lanes=4)
    assert settings.servers == ("one:mcp", "two:make")
    assert settings.lanes == 4


def test_the_public_url_gives_host_origin_and_audiences() -> None:
    settings = load_settings(environment="dev", public_url="https://MCP.Example:8443/base/")
    assert settings.public_host == "mcp.example"
    assert settings.public_origin == "https://MCP.Example:8443"
    assert settings.tenant_url("acme") == "https://MCP.Example:8443/base/t/acme"


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
