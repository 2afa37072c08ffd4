"""The Redis store, on a real server."""

import socket
from pathlib import Path

import pytest

from esper.store import KernelMissing, StoreUnavailable, StoreUrlInvalid, location_in, open_store
from esper.topics.codec import sha256_of

KERNEL_ID = sha256_of(b"the plan")
ARTIFACT = bytes(range(256)) * 4096


def test_another_client_gets_the_stored_bytes(redis_url: str) -> None:
    location = open_store(redis_url).put(KERNEL_ID, ARTIFACT)
    assert open_store(redis_url).get(location) == ARTIFACT
    assert redis_url not in location


def test_an_unused_location_is_missing(redis_url: str) -> None:
    store = open_store(redis_url)
    store.ping()
    with pytest.raises(KernelMissing):
        store.get(f"redis:{KERNEL_ID}/{KERNEL_ID}")
    with pytest.raises(KernelMissing):
        store.get("redis:another-key")


def test_an_unreachable_server_is_unavailable_and_its_password_is_not_shown() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = open_store(f"redis://user:secret@127.0.0.1:{port}/0")
    for call in (
        store.ping,
        lambda: store.put(KERNEL_ID, ARTIFACT),
        lambda: store.get(f"redis:{KERNEL_ID}/{KERNEL_ID}"),
    ):
        with pytest.raises(StoreUnavailable, match=str(port)) as failure:
            call()
        assert "secret" not in str(failure.value)


def test_a_malformed_url_is_refused() -> None:
    with pytest.raises(StoreUrlInvalid):
        open_store("redis://host:port/0")


def test_a_copied_artifact_has_the_same_name_in_the_other_store(
    redis_url: str, tmp_path: Path
) -> None:
    file_url = f"file:{tmp_path}"
    here, there = open_store(redis_url), open_store(file_url)
    location = here.put(KERNEL_ID, b"bytes")
    copied = there.put(KERNEL_ID, here.get(location))
    assert location_in(file_url, location) == copied
    assert location_in(redis_url, copied) == location
