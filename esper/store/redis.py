"""Kernels in Redis: for workers and trainers that share no disk."""

from typing import Final, cast

from redis import Redis
from redis.exceptions import RedisError

from esper.store.naming import name_in, name_of
from esper.store.refusal import KernelMissing, StoreUnavailable, StoreUrlInvalid

SCHEME: Final = "redis"
KEY_PREFIX: Final = "esper:kernel:"
CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 5.0


class RedisStore:
    """Artifacts as strings under `esper:kernel:<kernel_id>/<sha256>`, without expiry."""

    def __init__(self, url: str) -> None:
        try:
            self._client = Redis.from_url(
                url,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=ANSWER_TIMEOUT_S,
            )
        except ValueError as error:
            raise StoreUrlInvalid(f"{without_password(url)!r}: {error}") from error
        self._url = without_password(url)

    def put(self, kernel_id: str, data: bytes) -> str:
        """Set the artifact's key; setting it again to the same bytes changes nothing."""
        name = name_of(kernel_id, data)
        try:
            self._client.set(f"{KEY_PREFIX}{name}", data)
        except RedisError as error:
            raise self._unavailable(error) from error
        return f"{SCHEME}:{name}"

    def get(self, location: str) -> bytes:
        """Return the bytes under a location's key."""
        name = name_in(location, SCHEME)
        try:
            data = cast("bytes | None", self._client.get(f"{KEY_PREFIX}{name}"))
        except RedisError as error:
            raise self._unavailable(error) from error
        if data is None:
            raise KernelMissing(f"no kernel at {location} in {self._url}")
        return data

    def ping(self) -> None:
        """Return if the server answers a PING."""
        try:
            self._client.ping()
        except RedisError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: RedisError) -> StoreUnavailable:
        return StoreUnavailable(f"Redis at {self._url} does not answer as it should: {error}")


def without_password(url: str) -> str:
    """Return the URL as it may be told."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
