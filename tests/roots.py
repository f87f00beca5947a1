"""Settings with other roots of encryption."""

from __future__ import annotations

from pydantic import SecretStr

from trunkline.settings import Settings


def rooted(settings: Settings, root: str, *others: str) -> Settings:
    """These settings with `root` as SECRET_KEY, and `others` that open what is sealed, too."""
    return settings.model_copy(
        update={"secret_key": SecretStr(root), "other_secret_keys": tuple(map(SecretStr, others))}
    )
