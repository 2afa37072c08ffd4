"""10,000 damaged artifacts: each is refused, or is a kernel that `pack` writes; none runs code."""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.blueprint import shipped
from esper.compiler import BlueprintCompiler, initial_tensors
from esper.kernel import ArtifactRefused, Kernel, fetch_kernel, pack, unpack
from esper.kernel.metadata import LENGTH_BYTES
from esper.signing import TrustedKeys
from esper.store import open_store
from esper.topics.codec import sha256_of
from esper.topics.models import SiteKind, SiteSignature
from tests.keys import PATHS
from tests.seed.kernels import announced

DAMAGED = 10_000
FETCHED = 500
SHAPES = {SiteKind.VECTOR: (6,), SiteKind.SEQUENCE: (4, 8), SiteKind.FEATURE_MAP: (8, 4, 4)}

EXECUTING = (
    *("exec", "compile", "marshal.loads", "pickle.find_class", "code.__new__"),
    *("import", "ctypes.dlopen", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"),
    *("open", "socket.connect"),
)
"""Audit events of Python that reading an artifact must not cause."""


def artifacts() -> list[bytes]:
    """Return an artifact of every shipped blueprint, at a small site of each of its kinds."""
    plans = [
        BlueprintCompiler().compile(blueprint, SiteSignature(kind=kind, x=shape, h=shape))
        for blueprint in shipped()
        for kind, shape in SHAPES.items()
        if kind in blueprint.kinds
    ]
    return [pack(plan, initial_tensors(plan)) for plan in plans]


def flipped(rng: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)


def flipped_in_the_header(rng: random.Random, data: bytearray, other: bytes) -> None:
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(LENGTH_BYTES + length)] = rng.choice(b'0123456789{}[],:"\\\x00\xff')


def cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def extended(rng: random.Random, data: bytearray, other: bytes) -> None:
    data += rng.randbytes(rng.choice((1, 8, 1000)))


def of_another_length(rng: random.Random, data: bytearray, other: bytes) -> None:
    length = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, rng.randrange(len(data))))
    data[:LENGTH_BYTES] = length.to_bytes(LENGTH_BYTES, "little")


def spliced(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(min(len(data), len(other)))
    data[at:] = other[at:]


def shifted(rng: random.Random, data: bytearray, other: bytes) -> None:
    begin = rng.randrange(len(data))
    part = data[begin : begin + rng.choice((1, 4, 16))]
    at = rng.randrange(len(data))
    data[at : at + rng.choice((0, len(part)))] = part


DAMAGE = (flipped, flipped_in_the_header, cut, extended, of_another_length, spliced, shifted)


def damaged(count: int, seed: int, originals: list[bytes]) -> Iterator[bytes]:
    """Yield artifacts of which each differs from its original."""
    rng = random.Random(seed)
    while count:
        original = rng.choice(originals)
        data = bytearray(original)
        rng.choice(DAMAGE)(rng, data, rng.choice(originals))
        if data != original:
            count -= 1
            yield bytes(data)


_observed: list[Callable[[str], None]] = []
sys.addaudithook(lambda event, _: _observed[-1](event) if _observed else None)


@contextmanager
def executing_events() -> Iterator[Counter[str]]:
    """Count the events of `EXECUTING` within the block."""
    counts: Counter[str] = Counter()

    def count(event: str) -> None:
        if event in EXECUTING:
            counts[event] += 1

    _observed.append(count)
    try:
        yield counts
    finally:
        _observed.pop()


def test_the_events_of_running_code_are_noticed() -> None:
    with executing_events() as events:
        exec(compile("1 + 1", "artifact", "eval"))
    assert events["exec"] and events["compile"]


def test_damaged_artifacts_are_refused_or_are_kernels_and_run_no_code() -> None:
    originals = artifacts()
    outcomes: Counter[str] = Counter()
    for data in (*originals, *damaged(200, 1, originals)):  # imports what is imported lazily
        _read(data)
    with executing_events() as events:
        for data in damaged(DAMAGED, 0, originals):
            outcomes[_read(data)] += 1
    assert outcomes.total() == DAMAGED
    assert outcomes["refused"] > DAMAGED / 2
    assert outcomes["kernel"] > 0  # only its weights differ: a digest tells, the format cannot
    assert not events


def _read(data: bytes) -> str:
    try:
        plan, tensors = unpack(data)
        Kernel(plan, tensors, sha256_of(data))
    except ArtifactRefused:
        return "refused"
    assert pack(plan, tensors) == data
    return "kernel"


def test_a_store_with_damaged_artifacts_delivers_none(tmp_path: Path) -> None:
    site = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))
    keys = TrustedKeys(PATHS.public)
    with open_store(f"file://{tmp_path}") as store:
        ready = announced(store, "linear-bottleneck", site)
        (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
        original = file.read_bytes()
        assert fetch_kernel(store, keys, ready).data == original
        for data in damaged(FETCHED, 2, [original]):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            with pytest.raises(ArtifactRefused):
                fetch_kernel(store, keys, ready)
