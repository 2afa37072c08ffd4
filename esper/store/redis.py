"""The Redis store, for workers and trainers without a shared disk."""

from typing import Any, Final, cast

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from esper.store.credentials import NO_CREDENTIALS, StoreCredentials, without_password
from esper.store.errors import KernelMissing, StoreUnavailable, StoreUrlInvalid
from esper.store.naming import name_in, name_of

SCHEME: Final = "redis"
KEY_PREFIX: Final = "esper:kernel:"
CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 5.0


class RedisStore:
    """Artifacts as strings under `esper:kernel:<kernel_id>/<sha256>`, without expiry."""

    def __init__(self, url: str, credentials: StoreCredentials = NO_CREDENTIALS) -> None:
        """Prepare a client; it connects when it is used.

        Raises:
            StoreUrlInvalid: `url` is no URL of a Redis server.
        """
        self._client = redis_client(
            url,
            credentials,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
        )
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
        return StoreUnavailable(unavailable(self._url, error, "ESPER_STORE_URL"))


def redis_client(url: str, credentials: StoreCredentials, **options: Any) -> Redis:
    """Return a client with the credentials; `options` go to the client library.

    Raises:
        StoreUrlInvalid: `url` is no URL of a Redis server, or has no TLS though a CA file is given.
    """
    if credentials.redis_username is not None:
        options["username"] = credentials.redis_username
    if credentials.redis_password is not None:
        options["password"] = credentials.redis_password.get_secret_value()
    if credentials.redis_ca_file is not None:
        if not url.startswith("rediss:"):
            raise StoreUrlInvalid(
                f"{without_password(url)!r} is a Redis URL without TLS, but ESPER_REDIS_CA_FILE is "
                "set; use rediss://HOST:PORT/DB, or unset it"
            )
        options["ssl_ca_certs"] = str(credentials.redis_ca_file)
    try:
        return Redis.from_url(url, **options)
    except ValueError as error:
        raise StoreUrlInvalid(
            f"{without_password(url)!r} is no Redis URL ({error}); use redis://HOST:PORT/DB"
        ) from error


def unavailable(url: str, error: RedisError, setting: str) -> str:
    """Return a message for an error of a server at a URL without password."""
    if isinstance(error, AuthenticationError):
        return (
            f"Redis at {url} refuses the user or the password ({error}); "
            "check ESPER_REDIS_USERNAME and ESPER_REDIS_PASSWORD_FILE"
        )
    if isinstance(error, NoPermissionError):
        return f"Redis at {url} forbids it ({error}); check the user's ACL"
    if "SSL" in str(error):
        return f"Redis at {url}: TLS failed ({error}); check ESPER_REDIS_CA_FILE and {setting}"
    return f"Redis at {url} does not answer ({error}); start it with `esper up`, or set {setting}"
