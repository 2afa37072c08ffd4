"""Passwords and CA files of the servers that hold kernels and the memory of runs."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from esper.topics.secret import Secret


class StoreCredentials(BaseModel):
    """What the clients need besides a URL; a user or password in the URL wins.

    The CA files apply to `rediss:` URLs, and to PostgreSQL as `sslrootcert`. Without one, the CAs
    of the system are trusted.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    redis_username: str | None = None
    redis_password: Secret | None = None
    redis_ca_file: Path | None = None
    postgres_password: Secret | None = None
    postgres_ca_file: Path | None = None


NO_CREDENTIALS = StoreCredentials()


def without_password(url: str) -> str:
    """Return the URL without user name, password and query, for messages."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"
