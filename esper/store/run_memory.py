"""What the runs of each task family found, in Redis: one hash for a family.

Its fields are `schema`, `runs` (ids, as JSON) and, for each arm, `<signature> <blueprint>` with
[weight, mean, time in ms]. A hash of another schema is refused, never guessed at.
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
from esper.store.redis import without_password
from esper.store.refusal import MemoryUnreadable, StoreUnavailable, StoreUrlInvalid
from esper.topics.models import Identifier

KEY_PREFIX: Final = "esper:memory:"
SCHEMA: Final = b"1"
CONNECT_TIMEOUT_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 1.0
FOLD_TIMEOUT_S: Final = 2.0
"""Shorter than for kernels, without which nothing grows: without memory everything does."""

RETRY_WITHIN_S: Final = 0.02

_SCHEMA_FIELD: Final = b"schema"
_RUNS_FIELD: Final = b"runs"

Signature = Annotated[str, Field(max_length=200)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Reward = Annotated[float, Field(ge=0, le=1)]

_RUNS: Final = TypeAdapter(tuple[Identifier, ...])
_NAME: Final = TypeAdapter(tuple[Signature, Identifier])
_ARM: Final = TypeAdapter(tuple[Weight, Reward, int])


class RedisRunMemory:
    """The memory of each family; every method may block, and is safe to call from any thread."""

    def __init__(self, url: str, *, kept_days: float = 90.0) -> None:
        """Keep each family for so many days after the last run that it learnt from.

        Raises:
            StoreUrlInvalid: it is no URL of a Redis server.
        """
        self._url = without_password(url)
        self._kept_ms = int(kept_days * 86_400_000)
        try:
            self._client = Redis.from_url(
                url,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=ANSWER_TIMEOUT_S,
                # By default it tries for long: whoever asks would rather go on without.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise StoreUrlInvalid(f"{self._url!r}: {error}") from error

    def read(self, family: str) -> FamilyMemory:
        """Return what is known of a family; nothing where no run of it was folded.

        Raises:
            MemoryUnreadable: it is of another schema, or not ours.
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            return self._decoded(family, _fields(self._client, family))
        except RedisError as error:
            raise self._refusal(family, error) from error

    def fold(
        self, family: str, lessons: Iterable[MemoryUpdate], *, run_id: str, at_ms: int
    ) -> bool:
        """Add what a run found; return whether it counts now, not from an earlier time.

        All of it or nothing: where another writer comes between, it is folded anew.

        Raises:
            MemoryUnreadable, StoreUnavailable: as `read`, and nothing has changed.
        """
        learnt = list(lessons)
        deadline = time.monotonic() + FOLD_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                with self._client.pipeline() as pipe:
                    counts = self._folded_once(pipe, family, learnt, run_id, at_ms)
                if counts is not None:
                    return counts
                time.sleep(random.uniform(0, RETRY_WITHIN_S))
        except RedisError as error:
            raise self._refusal(family, error) from error
        raise StoreUnavailable(
            f"too many write to family {family!r} in Redis at {self._url} at once; try again"
        )

    def families(self) -> list[str]:
        """Return the names of the families of which something is kept.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            keys = list(self._client.scan_iter(match=f"{KEY_PREFIX}*", count=1000))
        except RedisError as error:
            raise self._unavailable(error) from error
        return sorted(cast(bytes, key).decode().removeprefix(KEY_PREFIX) for key in keys)

    def forget(self, family: str) -> bool:
        """Drop all that is kept of a family, whatever its schema; return whether there was any.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            return bool(self._client.delete(_key(family)))
        except RedisError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def _folded_once(
        self, pipe: Pipeline, family: str, lessons: list[MemoryUpdate], run_id: str, at_ms: int
    ) -> bool | None:
        """Return whether the run counts now; None where another writer came between."""
        key = _key(family)
        pipe.watch(key)  # type: ignore[no-untyped-call]
        found = _fields(pipe, family)
        before = self._decoded(family, found)
        after = with_run(before, lessons, run_id=run_id, at_ms=at_ms)
        if after is before:
            return False
        fields = _encoded(after)
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

    def _decoded(self, family: str, fields: Mapping[bytes, bytes]) -> FamilyMemory:
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

    def _refusal(self, family: str, error: RedisError) -> MemoryUnreadable | StoreUnavailable:
        if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
            return self._unreadable(family, "is no hash")
        return self._unavailable(error)

    def _unavailable(self, error: RedisError) -> StoreUnavailable:
        return StoreUnavailable(f"Redis at {self._url} does not answer as it should: {error}")

    def _unreadable(self, family: str, what: str) -> MemoryUnreadable:
        return MemoryUnreadable(
            f"the memory of family {family!r} in Redis at {self._url} {what}; use the version of "
            f"Esper that wrote it, or drop it with `esper memory forget {family}`"
        )


def _key(family: str) -> str:
    return f"{KEY_PREFIX}{family}"


def _fields(client: Redis, family: str) -> Mapping[bytes, bytes]:
    return cast("Mapping[bytes, bytes]", client.hgetall(_key(family)))


def _encoded(memory: FamilyMemory) -> dict[bytes, bytes]:
    arms = {
        f"{signature} {blueprint}".encode(): orjson.dumps(tuple(arm))
        for (signature, blueprint), arm in memory.arms.items()
    }
    return {_SCHEMA_FIELD: SCHEMA, _RUNS_FIELD: orjson.dumps(memory.runs), **arms}
