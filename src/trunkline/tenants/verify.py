"""Who calls: an API key becomes a principal, or is refused."""

from __future__ import annotations

from trunkline.tenants.model import Principal


class Verifier:
    """Verifies keys by their signature alone; learns signing keys and revocations by `refresh` and `revoke`."""

    def verify(self, token: str, slug: str) -> Principal:
        """The principal of `token` at tenant `slug`, from what this process knows.

        Raises:
            Unauthorized: with one sentence that says why.
        """
        raise NotImplementedError

    async def authenticate(self, token: str, slug: str) -> Principal:
        """Like `verify`, and where the signing key is unknown, look for it once before refusing.

        Raises:
            Unauthorized: with one sentence that says why.
        """
        raise NotImplementedError

    def revoke(self, key_id: str, at: float) -> None:
        """Refuse this key from `at` (seconds since the epoch) on."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Load signing keys and revocations from Redis and Postgres, whichever answer."""
        raise NotImplementedError
