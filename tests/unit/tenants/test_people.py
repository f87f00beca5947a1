from __future__ import annotations

import asyncio

import pytest

from trunkline.errors import TooManyRequests, Unavailable, UsageError
from trunkline.settings import Settings
from trunkline.tenants.passwords import Passwords, check_password
from trunkline.tenants.people import Doors, check_email


@pytest.mark.parametrize("email", ["ada@example.com", " Ada.Lovelace+x@Sub.Example.CO ", "o'neil@example.com"])
def test_an_address_is_kept_in_lower_case(email: str) -> None:
    assert check_email(email) == email.strip().lower()


@pytest.mark.parametrize(
    "email",
    [
        *("", "ada", "ada@", "@example.com", "ada@example", "a da@example.com", "ada@-x.com", "ada@x..com"),
        *("a@b.co\nx", "\u00e4@b.co", "x" * 65 + "@example.com", "a@" + "x" * 64 + ".com"),
        "a@" + ".".join(["x" * 60] * 5) + ".com",
    ],
)
def test_what_mail_does_not_go_to_is_refused(email: str) -> None:
    with pytest.raises(UsageError):
        check_email(email)


def test_a_password_has_a_length_and_is_not_the_address() -> None:
    assert check_password("correct horse battery", "ada@example.com") == "correct horse battery"
    for password in ("short", "x" * 257, "Ada@Example.com", " ada@example.com "):
        with pytest.raises(UsageError) as refused:
            check_password(password, "ada@example.com")
        assert password.strip() not in refused.value.message


async def test_a_password_is_hashed_with_argon2id_and_verified() -> None:
    passwords = Passwords()
    stored = await passwords.hash("correct horse battery")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert await passwords.verify(stored, "correct horse battery")
    assert not await passwords.verify(stored, "correct horse batterx")
    passwords.close()


async def test_an_account_that_is_not_there_costs_as_much_as_a_wrong_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords = Passwords(fast=True)
    asked: list[str] = []
    matches = passwords._matches

    def watched(stored: str, password: str) -> bool:
        asked.append(stored)
        return matches(stored, password)

    monkeypatch.setattr(passwords, "_matches", watched)
    assert not await passwords.verify(None, "anything at all")
    assert not await passwords.verify(await passwords.hash("x"), "anything at all")
    nobody, somebody = asked
    assert nobody.rsplit("$", 2)[0] == somebody.rsplit("$", 2)[0]
    assert [len(part) for part in nobody.split("$")] == [len(part) for part in somebody.split("$")]
    passwords.close()


async def test_only_so_many_passwords_wait_and_the_loop_runs_on() -> None:
    passwords = Passwords(fast=True)
    results = await asyncio.gather(*(passwords.hash(str(number)) for number in range(40)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Unavailable)]
    assert len(refused) == 40 - 18
    assert refused[0].retry_after == 3
    assert await passwords.hash("afterwards")
    passwords.close()


class Counted:
    """A throttle that counts by itself, in a time that stands still."""

    def __init__(self) -> None:
        self.tries: dict[tuple[str, str], int] = {}

    async def check(self, kind: str, who: str, rate: float, burst: int) -> None:
        tried = self.tries[kind, who] = self.tries.get((kind, who), 0) + 1
        if tried > burst:
            raise TooManyRequests


async def tried(doors: Doors, throttle: Counted, address: str, times: int) -> bool:
    """Whether an address is let through in the last of so many minutes, when it has tried in each."""
    through = True
    for _ in range(times):
        throttle.tries = {key: tries for key, tries in throttle.tries.items() if key[0] != "account"}
        try:
            await doors.account("ada@example.com", address)
            through = True
        except TooManyRequests:
            through = False
    return through


async def test_one_address_does_not_use_up_the_tries_of_an_account_and_many_do() -> None:
    throttle = Counted()
    doors = Doors(Settings(environment="dev"), throttle)
    assert not await tried(doors, throttle, "192.0.2.1", 500)
    assert await tried(doors, throttle, "192.0.2.2", 1)
    for last in range(3, 10):
        await tried(doors, throttle, f"192.0.2.{last}", 500)
    assert not await tried(doors, throttle, "192.0.2.10", 1)
