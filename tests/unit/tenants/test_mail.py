from __future__ import annotations

import smtplib

import pytest
from pydantic import SecretStr

from trunkline.errors import Unavailable
from trunkline.settings import Settings
from trunkline.tenants.mail import Mailer


class Server(smtplib.SMTP):
    """A mail server that offers no encryption, and takes everything."""

    def __init__(self, *_: object, **__: object) -> None:
        self.taken: list[object] = servers_take
        self.esmtp_features: dict[str, str] = {}

    def ehlo_or_helo_if_needed(self) -> None: ...

    def ehlo(self, name: str = "") -> tuple[int, bytes]:
        return 250, b""

    def login(self, *_: object, **__: object) -> tuple[int, bytes]:
        self.taken.append("password")
        return 235, b""

    def send_message(self, message: object, *_: object, **__: object) -> dict[str, tuple[int, bytes]]:
        self.taken.append(message)
        return {}

    def quit(self) -> tuple[int, bytes]:
        return 221, b""

    def __exit__(self, *_: object) -> None: ...


servers_take: list[object] = []


def mailer(host: str) -> Mailer:
    url = SecretStr(f"smtp://user:secret@{host}")
    return Mailer(Settings(environment="dev", smtp_url=url, mail_from="trunkline@example.com"))


async def test_no_mail_and_no_password_goes_in_the_clear_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtplib.SMTP", Server)
    servers_take.clear()
    with pytest.raises(Unavailable):
        await mailer("mail.example.com").send("ada@example.com", "Invitation", "secret")
    assert servers_take == []
    await mailer("127.0.0.1").send("ada@example.com", "Invitation", "secret")
    assert len(servers_take) == 2
