"""The memory of earlier runs in Redis: one hash per task family.

The fields of a hash are `schema`, `runs` (ids, as JSON) and, per arm, `<signature> <blueprint>`:
[weight, mean, time in ms]. A hash with another schema is an error.
"""

import random
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, cast

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.retry import Retry

from esper.bandit import ArmName, ArmRecord, FamilyMemory, MemoryUpdate, with_run
from esper.store.credentials import NO_CREDENTIALS, StoreCredentials, without_password
from esper.store.errors import MemoryUnreadable, StoreUnavailable
from esper.store.redis import redis_client, unavailable
from esper.topics.models import Identifier

KEY_PREFIX: Final = "esper:memory:"
SCHEMA: Final = b"1"
TIMEOUT_S: Final = 1.0
FOLD_TIMEOUT_S: Final = 2.0
"""Timeouts are shorter than for kernels, because a run works without memory too."""

RETRY_WITHIN_S: Final = 0.02

_SCHEMA_FIELD: Final = b"schema"
_RUNS_FIELD: Final = b"runs"

Signature = Annotated[str, Field(max_length=200)]
Weight = Annotated[float, Field(gt=0, le=1e9)]
Reward = Annotated[float, Field(ge=0, le=1)]

_RUNS: Final = TypeAdapter(tuple[Identifier, ...])
_NAME: Final = TypeAdapter(tuple[Signature, Identifier])
Milliseconds = Annotated[int, Field(ge=0, lt=1 << 53)]

_ARM: Final = TypeAdapter(tuple[Weight, Reward, Milliseconds])


class RedisRunMemory:
    """The memory of each task family; methods may block and are thread-safe."""

    def __init__(
        self,
        url: str,
        credentials: StoreCredentials = NO_CREDENTIALS,
        *,
        kept_days: float = 90.0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Keep each family for `kept_days` after its last run; `timeout_s` limits each answer.

        Raises:
            StoreUrlInvalid: `url` is no URL of a Redis server.
        """
        self._url = without_password(url)
        self._kept_ms = int(kept_days * 86_400_000)
        self._client = redis_client(
            url,
            credentials,
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            # The client's default retries take longer than a caller should wait.
            retry=Retry(NoBackoff(), 0),
        )

    def read(self, family: str) -> FamilyMemory:
        """Return the memory of a family, empty if no run of it was folded.

        Raises:
            MemoryUnreadable: the key has another schema, or another type.
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            return self._decode(family, _fields(self._client, family))
        except RedisError as error:
            raise self._error(family, error) from error

    def fold(
        self, family: str, updates: Iterable[MemoryUpdate], *, run_id: str, at_ms: int
    ) -> bool:
        """Add the results of a run; return False if the run was added before.

        The update is atomic: it is retried when another client writes the family in between.

        Raises:
            MemoryUnreadable, StoreUnavailable: see `read`; nothing has changed.
        """
        pending = list(updates)
        deadline = time.monotonic() + FOLD_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                with self._client.pipeline() as pipe:
                    counts = self._fold_once(pipe, family, pending, run_id, at_ms)
                if counts is not None:
                    return counts
                time.sleep(random.uniform(0, RETRY_WITHIN_S))
        except RedisError as error:
            raise self._error(family, error) from error
        raise StoreUnavailable(
            f"family {family!r} in Redis at {self._url} was not updated within "
            f"{FOLD_TIMEOUT_S:g} s because other clients write it; retry"
        )

    def families(self) -> list[str]:
        """Return the sorted names of the stored families.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            keys = list(self._client.scan_iter(match=f"{KEY_PREFIX}*", count=1000))
        except RedisError as error:
            raise self._unavailable(error) from error
        return sorted(
            cast(bytes, key).decode(errors="replace").removeprefix(KEY_PREFIX) for key in keys
        )

    def forget(self, family: str) -> bool:
        """Delete a family of any schema; return whether it existed.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            return bool(self._client.delete(_key(family)))
        except RedisError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _fold_once(
        self, pipe: Pipeline, family: str, updates: list[MemoryUpdate], run_id: str, at_ms: int
    ) -> bool | None:
        """Return whether the run was added; None if another client wrote the family in between."""
        key = _key(family)
        pipe.watch(key)  # type: ignore[no-untyped-call]
        found = _fields(pipe, family)
        before = self._decode(family, found)
        after = with_run(before, updates, run_id=run_id, at_ms=at_ms)
        if after is before:
            return False
        fields = _encode(after)
        pipe.multi()
        pipe.hset(
            key, mapping={name: value for name, value in fields.items() if found.get(name) != value}
        )
        if gone := found.keys() - fields.keys():
            pipe.hdel(key, *gone)
        pipe.pexpire(key, self._kept_ms)
        try:
            pipe.execute()
        except WatchError:
            return None
        return True

    def _decode(self, family: str, fields: Mapping[bytes, bytes]) -> FamilyMemory:
        if not fields:
            return FamilyMemory()
        schema = fields.get(_SCHEMA_FIELD, b"none")
        if schema != SCHEMA:
            raise self._unreadable(
                family, f"has schema {schema.decode(errors='replace')}, not {SCHEMA.decode()}"
            )
        arms: dict[ArmName, ArmRecord] = {}
        try:
            runs = _RUNS.validate_json(fields[_RUNS_FIELD])
            for name, value in fields.items():
                if name not in (_SCHEMA_FIELD, _RUNS_FIELD):
                    words = _NAME.validate_python(tuple(name.decode().rsplit(" ", 1)))
                    arms[words] = ArmRecord(*_ARM.validate_json(value))
        except (KeyError, UnicodeDecodeError, ValidationError) as error:
            raise self._unreadable(family, "is damaged") from error
        return FamilyMemory(arms, runs)

    def _error(self, family: str, error: RedisError) -> MemoryUnreadable | StoreUnavailable:
        if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
            return self._unreadable(family, "is no hash")
        return self._unavailable(error)

    def _unavailable(self, error: RedisError) -> StoreUnavailable:
        return StoreUnavailable(unavailable(self._url, error, "ESPER_REDIS_URL"))

    def _unreadable(self, family: str, fault: str) -> MemoryUnreadable:
        return MemoryUnreadable(
            f"the memory of family {family!r} in Redis at {self._url} {fault}; use the version of "
            f"Esper that wrote it, or delete it with `esper memory forget {family}`"
        )


def _key(family: str) -> str:
    return f"{KEY_PREFIX}{family}"


def _fields(client: Redis, family: str) -> Mapping[bytes, bytes]:
    return cast("Mapping[bytes, bytes]", client.hgetall(_key(family)))


def _encode(memory: FamilyMemory) -> dict[bytes, bytes]:
    arms = {
        f"{signature} {blueprint}".encode(): orjson.dumps(tuple(arm))
        for (signature, blueprint), arm in memory.arms.items()
    }
    return {_SCHEMA_FIELD: SCHEMA, _RUNS_FIELD: orjson.dumps(memory.runs), **arms}
