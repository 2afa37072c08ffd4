"""The Redis tier, for workers and trainers without a shared disk.

As a cache its entries expire `ttl_s` after their last use, and the least recently used are deleted
beyond `limit_bytes`; as the durable tier it deletes nothing by itself.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from esper.store.credentials import NO_CREDENTIALS, StoreCredentials, without_password
from esper.store.errors import StoreForbidden, StoreUnavailable, StoreUrlInvalid
from esper.store.naming import MAX_ARTIFACT_BYTES, KernelName, parse_name
from esper.store.tier import Entry

KEY_PREFIX: Final = "esper:kernel:"
QUARANTINE_PREFIX: Final = "esper:kernel-quarantine:"
INDEX_KEY: Final = "esper:kernel-index"
"""Sorted set of names by Unix time in seconds: of the last use in a cache, else of the last put."""

SIZES_KEY: Final = "esper:kernel-sizes"
"""Hash of the sizes in bytes of a cache's entries by name; field `total` has their sum."""

CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 5.0
CACHE_TIMEOUT_S: Final = 1.0
"""A cache that does not answer within this time is passed over: the next tier has the kernel."""

# KEYS: entry, index, sizes. ARGV: data, time in s, name, entry prefix, ttl in s, limit in bytes.
# Entries that expired are still counted; they are the least recently used, and go first.
_PUT_IN_CACHE: Final = """
local size, limit = #ARGV[1], tonumber(ARGV[6])
if size > limit then return 0 end
local before = tonumber(redis.call('HGET', KEYS[3], ARGV[3]) or 0)
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[3], size)
local total = redis.call('HINCRBY', KEYS[3], 'total', size - before)
while total > limit do
  local oldest = redis.call('ZPOPMIN', KEYS[2])
  if not oldest[1] then return 1 end
  redis.call('UNLINK', ARGV[4] .. oldest[1])
  local freed = tonumber(redis.call('HGET', KEYS[3], oldest[1]) or 0)
  redis.call('HDEL', KEYS[3], oldest[1])
  total = redis.call('HINCRBY', KEYS[3], 'total', -freed)
end
return 1
"""

_FORGET: Final = """
redis.call('ZREM', KEYS[2], ARGV[1])
local size = redis.call('HGET', KEYS[3], ARGV[1])
if size then
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('HINCRBY', KEYS[3], 'total', -size)
end
"""

# KEYS: entry, index, sizes, quarantine. ARGV: name, SHA-1 of what was read, last index read, keep.
_QUARANTINE: Final = (
    """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return 0 end
if kind == 'string' then
  local found = redis.call('GETRANGE', KEYS[1], 0, ARGV[3])
  if redis.sha1hex(found) ~= ARGV[2] then return 0 end
end
if ARGV[4] == '1' then redis.call('RENAME', KEYS[1], KEYS[4])
else redis.call('UNLINK', KEYS[1]) end
"""
    + _FORGET
    + "return 1"
)

# KEYS: entry, index, sizes. ARGV: name, time in s before which the last put must be, or ''.
_DELETE: Final = (
    """
local stored = redis.call('ZSCORE', KEYS[2], ARGV[1])
if ARGV[2] ~= '' and stored and tonumber(stored) >= tonumber(ARGV[2]) then return 0 end
local deleted = redis.call('UNLINK', KEYS[1])
"""
    + _FORGET
    + "return deleted"
)


_FORBIDDEN: Final = (NoPermissionError, ReadOnlyError)
"""Of the user's ACL, or of a replica."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Limits of a cache: seconds since the last use, and bytes of all entries."""

    ttl_s: int
    limit_bytes: int


class RedisTier:
    """Artifacts as strings under `esper:kernel:<kernel_id>/<sha256>`."""

    kind = "redis"
    in_process = False

    def __init__(
        self,
        url: str,
        cache: CacheLimits | None = None,
        credentials: StoreCredentials = NO_CREDENTIALS,
    ) -> None:
        """Connect on first use; without `cache` this is a durable tier.

        Raises:
            StoreUrlInvalid: the URL is malformed, or does not fit the credentials.
        """
        self.address = without_password(url)
        self._cache = cache
        self._client = redis_client(
            url,
            credentials,
            socket_connect_timeout=CACHE_TIMEOUT_S if cache else CONNECT_TIMEOUT_S,
            socket_timeout=CACHE_TIMEOUT_S if cache else ANSWER_TIMEOUT_S,
            # One more attempt, for a connection that the server closed; no pauses.
            retry=Retry(NoBackoff(), 1),
        )

    def write(self, name: KernelName, data: bytes) -> None:
        """Set the artifact's key; a cache drops its least recently used entries for it."""
        key, now_s = _key(name), time.time()
        with self._errors():
            if self._cache is None:
                with self._client.pipeline() as pipe:
                    pipe.set(key, data)
                    pipe.zadd(INDEX_KEY, {str(name): now_s})
                    pipe.execute()
                return
            limits = (self._cache.ttl_s, self._cache.limit_bytes)
            self._script(_PUT_IN_CACHE, (key,), data, now_s, str(name), KEY_PREFIX, *limits)

    def read(self, name: KernelName) -> bytes | None:
        """Return the key's bytes, at most one more than an artifact can have.

        A key of another type is `b""`. A cache also extends the key's expiry.
        """
        with self._errors():
            try:
                return self._read(name) or None
            except ResponseError as error:
                if "WRONGTYPE" in str(error):
                    return b""
                raise

    def _read(self, name: KernelName) -> bytes:
        key = _key(name)
        if self._cache is None:
            return cast(bytes, self._client.getrange(key, 0, MAX_ARTIFACT_BYTES))
        with self._client.pipeline(transaction=False) as pipe:
            pipe.getrange(key, 0, MAX_ARTIFACT_BYTES)
            pipe.expire(key, self._cache.ttl_s)
            pipe.zadd(INDEX_KEY, {str(name): time.time()}, xx=True)
            # A user that may only read still reads.
            data = pipe.execute(raise_on_error=False)[0]
        if isinstance(data, RedisError):
            raise data
        return cast(bytes, data)

    def quarantine(self, name: KernelName, found: bytes) -> None:
        """Delete the key of a cache; rename that of a durable tier."""
        digest = hashlib.sha1(found, usedforsecurity=False).hexdigest()
        keys = (_key(name), f"{QUARANTINE_PREFIX}{name}")
        keep = int(self._cache is None)
        with self._errors():
            self._script(_QUARANTINE, keys, str(name), digest, MAX_ARTIFACT_BYTES, keep)

    def delete(self, name: KernelName, *, stored_before_s: float | None = None) -> bool:
        """Delete the key."""
        limit = "" if stored_before_s is None else stored_before_s
        with self._errors():
            return bool(self._script(_DELETE, (_key(name),), str(name), limit))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries; one whose time of storing is unknown counts as stored now."""
        with self._errors():
            for keys in _batches(self._client.scan_iter(match=f"{KEY_PREFIX}*", count=1000)):
                texts = [key.decode(errors="replace").removeprefix(KEY_PREFIX) for key in keys]
                with self._client.pipeline(transaction=False) as pipe:
                    for key, text in zip(keys, texts, strict=True):
                        pipe.strlen(key)
                        pipe.zscore(INDEX_KEY, text)
                    facts = pipe.execute(raise_on_error=False)
                for text, size, stored_s in zip(texts, facts[::2], facts[1::2], strict=True):
                    if (name := parse_name(text)) is not None:
                        known_size = size if isinstance(size, int) else 0
                        yield Entry(name, known_size, time.time() if stored_s is None else stored_s)

    def ping(self) -> None:
        """Check that the server answers a PING."""
        with self._errors():
            self._client.ping()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _script(self, source: str, keys: tuple[str, ...], *arguments: bytes | str | float) -> Any:
        entry, *others = keys
        named = (entry, INDEX_KEY, SIZES_KEY, *others)
        return self._client.eval(source, len(named), *named, *arguments)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            reason = unavailable(self.address, error, "ESPER_KERNEL_STORE")
            kind = StoreForbidden if isinstance(error, _FORBIDDEN) else StoreUnavailable
            raise kind(reason) from error


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


def _key(name: KernelName) -> str:
    return f"{KEY_PREFIX}{name}"


def _batches(keys: Iterator[bytes], size: int = 1000) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for key in keys:
        batch.append(key)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
