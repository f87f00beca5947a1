"""Mail, over SMTP in a thread of its own for as long as it takes."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from typing import Final
from urllib.parse import unquote, urlsplit

from trunkline.errors import Unavailable
from trunkline.settings import Settings

_TIMEOUT: Final = 10.0
"""Seconds that the mail server has for each step."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Mailer:
    """Sends mail through the server of `SMTP_URL`, encrypted unless that is on this machine.

    Mail holds secrets, and somebody on the way could hide that the server offers STARTTLS: it must.

    Raises, from `send`:
        Unavailable: the server cannot be reached, offers no encryption, or did not take the mail.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.smtp_url.get_secret_value()
        self._sender = settings.mail_from

    async def send(self, to: str, subject: str, text: str) -> None:
        """Send one mail of plain text."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message.set_content(text)
        try:
            await asyncio.to_thread(self._deliver, message)
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable("The mail server did not take the mail; try again later.", retry_after=60) from error

    def _deliver(self, message: EmailMessage) -> None:
        parts = urlsplit(self._url)
        host, context = parts.hostname or "", ssl.create_default_context()
        secure = parts.scheme == "smtps"
        server: smtplib.SMTP = (
            smtplib.SMTP_SSL(host, parts.port or 465, timeout=_TIMEOUT, context=context)
            if secure
            else smtplib.SMTP(host, parts.port or 587, timeout=_TIMEOUT)
        )
        with server:
            server.ehlo()
            if not secure and (server.has_extn("starttls") or host not in _LOOPBACK):
                server.starttls(context=context)  # raises SMTPNotSupportedError where it is not offered
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(message)
