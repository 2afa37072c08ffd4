"""Conditions that hold for a while: jumped clocks, a cache without room, a full disk."""

import random
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

import psycopg
import redis

from benchmarks.result import BenchmarkError

SHORTEST_JUMP_S: Final = 60
LONGEST_JUMP_S: Final = 1800

_FILL: Final = """
    CREATE OR REPLACE FUNCTION esper.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END $$;
    CREATE OR REPLACE TRIGGER full_disk BEFORE INSERT OR UPDATE ON esper.kernels
    EXECUTE FUNCTION esper.refuse()"""

_EMPTY: Final = "DROP TRIGGER IF EXISTS full_disk ON esper.kernels"


class Condition(Protocol):
    """A fault with an end; `begin` and `end` raise OSError or a client's error if they cannot."""

    @property
    def what(self) -> str:
        """The fault, in the rows of the result."""
        ...

    def begin(self, rng: random.Random) -> None:
        """Make it so."""
        ...

    def end(self) -> None:
        """Make it as it was."""
        ...


class ClockJump:
    """The wall clock of every Python process jumps; libfaketime reads the offset from a file."""

    what = "clock"

    def __init__(self, file: Path) -> None:
        self._file = file
        self.end()

    def environment(self) -> dict[str, str]:
        """Return the variables for processes whose clock jumps.

        Raises:
            BenchmarkError: libfaketime is not installed.
        """
        spec = find_spec("libfaketime")
        if spec is None or spec.origin is None:
            raise BenchmarkError("package libfaketime is not installed: run `make .venv/.dev`")
        vendored = Path(spec.origin).parent / "vendor" / "libfaketime" / "src"
        return {
            "LD_PRELOAD": str(vendored / "libfaketime.so.1"),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            # Kafka and the stores keep their clock, and all keep the one that measures durations.
            "FAKETIME_ONLY_CMDS": Path(sys.executable).name,
            "DONT_FAKE_MONOTONIC": "1",
        }

    def begin(self, rng: random.Random) -> None:
        """Jump by a minute to half an hour, ahead or back."""
        self._file.write_text(f"{rng.choice('+-')}{rng.randint(SHORTEST_JUMP_S, LONGEST_JUMP_S)}\n")

    def end(self) -> None:
        """Jump back."""
        self._file.write_text("+0\n")


@dataclass(frozen=True, slots=True)
class RedisFull:
    """Redis refuses every write, as when its memory limit is reached."""

    url: str
    what = "full"

    def begin(self, rng: random.Random) -> None:
        """Set a limit below what is used."""
        self._limit(1)

    def end(self) -> None:
        """Remove the limit."""
        self._limit(0)

    def _limit(self, limit_bytes: int) -> None:
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            client.config_set("maxmemory", limit_bytes)


@dataclass(frozen=True, slots=True)
class PostgresFull:
    """PostgreSQL refuses every artifact with the error of a full disk."""

    url: str
    what = "full"

    def begin(self, rng: random.Random) -> None:
        """Refuse inserts and updates."""
        self._execute(_FILL)

    def end(self) -> None:
        """Accept them again."""
        self._execute(_EMPTY)

    def _execute(self, statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
            connection.execute(statements.encode())
