"""The list of tiers in ESPER_KERNEL_STORE: URLs separated by commas, the fastest tier first."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from esper.store.credentials import NO_CREDENTIALS, StoreCredentials
from esper.store.errors import StoreUrlInvalid
from esper.store.tier import Tier

SCHEMES: Final = ("memory", "file", "redis", "rediss", "postgresql", "postgres")

CACHE_TTL_S: Final = 7 * 86_400
CACHE_LIMIT_BYTES: Final = 1 << 30
"""Limits of a Redis cache whose URL has no `ttl` and no `limit`."""

EXAMPLE: Final = "memory:512MiB,redis://HOST:PORT/DB,postgresql://USER@HOST:PORT/DB"

# A comma may be part of a URL; one before a scheme ends it.
_SEPARATOR: Final = re.compile(rf",\s*(?=(?:{'|'.join(SCHEMES)}):)")
_SIZE: Final = re.compile(r"(\d+)(KiB|MiB|GiB)")
_DURATION: Final = re.compile(r"(\d+)(s|m|h|d)")
_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_REDIS_OPTIONS: Final = ("ttl", "limit")


def urls_of(spec: str) -> list[str]:
    """Return the URLs of a list."""
    return [url.strip() for url in _SEPARATOR.split(spec.strip())]


def tiers_of(spec: str, credentials: StoreCredentials = NO_CREDENTIALS) -> list[Tier]:
    """Return the tiers of a list; nothing is connected to.

    Raises:
        StoreUrlInvalid: a URL has none of the known forms, or the last tier is not durable.
    """
    urls = urls_of(spec)
    last = len(urls) - 1
    tiers = [_tier(url, credentials, durable=index == last) for index, url in enumerate(urls)]
    if tiers[-1].in_process:
        raise StoreUrlInvalid(
            "the last tier of ESPER_KERNEL_STORE must be durable, and memory is not; "
            f"end the list with file, redis or postgresql, such as {EXAMPLE}"
        )
    return tiers


def _tier(url: str, credentials: StoreCredentials, *, durable: bool) -> Tier:
    # Imported here, so that a process loads only the clients that it uses.
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if rest:
            from esper.store.memory import MemoryTier

            return MemoryTier(_size(rest))
        case "file" if rest:
            from esper.store.file import FileTier

            return FileTier(Path(rest.removeprefix("//")))
        case "redis" | "rediss":
            return _redis(url, credentials, durable=durable)
        case "postgresql" | "postgres":
            from esper.store.postgres import PostgresTier

            return PostgresTier(url, credentials)
    known = url if "@" not in url else f"{scheme}:…"
    raise StoreUrlInvalid(
        f"{known!r} is no kernel store; set ESPER_KERNEL_STORE to file:PATH, or to a list such as "
        f"{EXAMPLE}"
    )


def _redis(url: str, credentials: StoreCredentials, *, durable: bool) -> Tier:
    from esper.store.redis import CacheLimits, RedisTier

    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: value for name, value in options if name in _REDIS_OPTIONS}
    others = urlencode([(name, value) for name, value in options if name not in _REDIS_OPTIONS])
    plain = urlunsplit(parts._replace(query=others))
    if durable:
        if own:
            raise StoreUrlInvalid(
                f"{' and '.join(own)} of Redis cannot be set where it is the last tier of "
                "ESPER_KERNEL_STORE: a durable tier drops nothing; add a durable tier after it"
            )
        return RedisTier(plain, None, credentials)
    ttl_s = _duration(own["ttl"]) if "ttl" in own else CACHE_TTL_S
    limit = _size(own["limit"]) if "limit" in own else CACHE_LIMIT_BYTES
    return RedisTier(plain, CacheLimits(ttl_s, limit), credentials)


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise StoreUrlInvalid(
            f"{text!r} in ESPER_KERNEL_STORE is no size; write it as 64MiB or 2GiB"
        )
    return int(found[1]) * _UNITS[found[2]]


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise StoreUrlInvalid(
            f"{text!r} in ESPER_KERNEL_STORE is no duration; write it as 90s, 30m, 12h or 7d"
        )
    return int(found[1]) * _SECONDS[found[2]]
