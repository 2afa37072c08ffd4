"""The Redis store, for workers and trainers without a shared disk."""

from typing import Final, cast

from redis import Redis
from redis.exceptions import RedisError

from esper.store.errors import KernelMissing, StoreUnavailable, StoreUrlInvalid
from esper.store.naming import name_in, name_of

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
            raise StoreUrlInvalid(
                f"{without_password(url)!r} is no Redis URL ({error}); use redis://HOST:PORT/DB"
            ) from error
        self._url = without_password(url)

    def put(self, kernel_id: str, data: bytes) -> str:
        """Set the artifact's key; a repeated `put` changes nothing."""
        name = name_of(kernel_id, data)
        try:
            self._client.set(f"{KEY_PREFIX}{name}", data)
        except RedisError as error:
            raise self._unavailable(error) from error
        return f"{SCHEME}:{name}"

    def get(self, location: str) -> bytes:
        """Return the bytes of a location's key."""
        name = name_in(location, SCHEME)
        try:
            data = cast("bytes | None", self._client.get(f"{KEY_PREFIX}{name}"))
        except RedisError as error:
            raise self._unavailable(error) from error
        if data is None:
            raise KernelMissing(
                f"no kernel at {location} in {self._url}; "
                "use the store that the compile worker writes to"
            )
        return data

    def ping(self) -> None:
        """Check that the server answers a PING."""
        try:
            self._client.ping()
        except RedisError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: RedisError) -> StoreUnavailable:
        return StoreUnavailable(
            f"Redis at {self._url} does not answer ({error}); "
            "start it with `esper up`, or set ESPER_STORE_URL"
        )


def without_password(url: str) -> str:
    """Return the URL without user name and password, for messages."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
