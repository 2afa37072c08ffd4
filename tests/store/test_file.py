"""The file tier, on a temporary directory."""

from pathlib import Path

import pytest

from esper.store import KernelAltered, KernelMissing, StoreUnavailable, open_store
from esper.topics.codec import sha256_of

KERNEL_ID = sha256_of(b"the plan")


def test_a_location_is_valid_wherever_the_store_is_mounted(tmp_path: Path) -> None:
    location = open_store(f"file:{tmp_path / 'here'}").put(KERNEL_ID, b"bytes").location
    (tmp_path / "here").rename(tmp_path / "there")
    assert open_store(f"file:{tmp_path / 'there'}").get(location) == b"bytes"
    assert location == f"{KERNEL_ID}/{sha256_of(b'bytes')}"


@pytest.mark.parametrize("scheme", ["file", "redis"])
def test_locations_of_earlier_contracts_are_read(tmp_path: Path, scheme: str) -> None:
    store = open_store(f"file:{tmp_path}")
    location = store.put(KERNEL_ID, b"bytes").location
    assert store.get(f"{scheme}:{location}") == b"bytes"


def test_locations_are_equal_for_equal_bytes_only(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}")
    first = store.put(KERNEL_ID, b"bytes")
    assert store.put(KERNEL_ID, b"bytes") == first
    assert store.put(KERNEL_ID, b"other").location != first.location
    assert store.get(first.location) == b"bytes"


def test_put_overwrites_an_altered_file(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}")
    stored = store.put(KERNEL_ID, b"bytes")
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"altered")
    assert store.put(KERNEL_ID, b"bytes") == stored
    assert store.get(stored.location) == b"bytes"


def test_put_leaves_no_temporary_file(tmp_path: Path) -> None:
    open_store(f"file:{tmp_path}").put(KERNEL_ID, b"bytes")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".safetensors"]


def test_an_altered_file_is_moved_aside_and_never_returned(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}")
    location = store.put(KERNEL_ID, b"bytes").location
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"altered")
    with pytest.raises(KernelAltered, match="changed after validation"):
        store.get(location)
    with pytest.raises(KernelMissing):
        store.get(location)
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == b"altered"
    assert store.health()[0].counts.quarantined == 1


def test_an_altered_file_that_cannot_be_moved_is_not_returned(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}")
    location = store.put(KERNEL_ID, b"bytes").location
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"altered")
    (tmp_path / "quarantine").write_text("in the way")
    with pytest.raises(KernelAltered):
        store.get(location)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "file:",
        "file:../../etc/passwd",
        "/etc/passwd",
        KERNEL_ID,
        f"{KERNEL_ID}/../{KERNEL_ID}",
        f"{KERNEL_ID}/{KERNEL_ID}\n",
        f"s3:{KERNEL_ID}/{KERNEL_ID}",
        f"{KERNEL_ID}/{KERNEL_ID}",
    ],
)
def test_an_invalid_location_is_missing(tmp_path: Path, location: str) -> None:
    with pytest.raises(KernelMissing):
        open_store(f"file:{tmp_path}").get(location)


def test_a_location_cannot_address_a_file_outside_the_store(tmp_path: Path) -> None:
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    store = open_store(f"file:{tmp_path / 'store'}")
    store.ping()
    for name in ("../outside", str(tmp_path / "outside")):
        with pytest.raises(KernelMissing):
            store.get(name)


def test_an_invalid_kernel_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no kernel id"):
        open_store(f"file:{tmp_path}").put("../escape", b"bytes")


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    store = open_store(f"file:{tmp_path / 'taken'}")
    with pytest.raises(StoreUnavailable, match="taken"):
        store.ping()
    with pytest.raises(StoreUnavailable, match="taken"):
        store.put(KERNEL_ID, b"bytes")
