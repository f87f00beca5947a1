from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel, SecretStr

from trunkline import NotConfigured, current_config, current_configs_var


class Weather(BaseModel):
    token: SecretStr
    station: int


class Tides(BaseModel):
    harbour: str = "Bergen"


class DeepTides(Tides):
    pass


async def test_a_handler_and_its_threads_have_the_configuration_of_exactly_that_class() -> None:
    mine, deep = Weather(token=SecretStr("x"), station=7), DeepTides(harbour="Oslo")
    reset = current_configs_var.set((deep, mine))
    try:
        assert current_config(Weather) is mine
        assert current_config(Tides).harbour == "Bergen"
        assert await asyncio.to_thread(current_config, DeepTides) is deep
    finally:
        current_configs_var.reset(reset)


def test_where_nothing_is_configured_defaults_hold() -> None:
    assert current_config(Tides) == Tides()


def test_what_has_no_defaults_says_what_to_configure() -> None:
    with pytest.raises(NotConfigured, match="an administrator of the tenant has to set token, station"):
        current_config(Weather)
