"""The loader: only verified bytes become kernels, and every request is answered."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
import torch

from esper.blueprint import request_for, shipped_named
from esper.compiler import Built, build_kernel
from esper.kernel import UNSIGNED, KernelLoader, pack, sign_announcement, unpack
from esper.kernel.build import load_kernel
from esper.kernel.loader import (
    Delivery,
    KernelRefused,
    KernelsFailed,
    KernelsPrepared,
    KernelVerified,
)
from esper.signing import SigningKey, create_keys
from esper.store import KernelStore, open_store
from esper.topics.codec import sha256_of
from esper.topics.models import KernelCost, KernelReady, SiteKind, SiteSignature
from tests.keys import KEY, TRUSTED
from tests.waiting import TIMEOUT_S

SITE = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))
REQUEST = request_for(shipped_named("linear-bottleneck"), SITE)


def artifact() -> bytes:
    built = build_kernel(REQUEST)
    assert isinstance(built, Built)
    return built.artifact


ARTIFACT = artifact()


def announced(
    store: KernelStore, data: bytes = ARTIFACT, key: SigningKey = KEY, **changed: object
) -> KernelReady:
    """Store an artifact, and announce it with a valid signature; `changed` fields are untrue."""
    unsigned = KernelReady(
        kernel_id=REQUEST.kernel_id,
        blueprint_id=REQUEST.blueprint.blueprint_id,
        category=REQUEST.blueprint.category,
        site_signature=SITE,
        location=store.put(REQUEST.kernel_id, data).location,
        sha256=sha256_of(data),
        ed25519_signature=UNSIGNED,
        bytes=len(data),
        params=unpack(ARTIFACT)[0].params,
    )
    return sign_announcement(key, unsigned.model_copy(update=changed))


@pytest.fixture
def store(tmp_path: Path) -> KernelStore:
    return open_store(f"file:{tmp_path / 'kernels'}")


@contextmanager
def loading(
    store: KernelStore, **options: object
) -> Iterator[tuple[KernelLoader, Callable[[], Delivery]]]:
    """A loader, and a function that waits for its next delivery."""
    mailbox: SimpleQueue[Delivery] = SimpleQueue()
    loader = KernelLoader(
        store,
        TRUSTED,
        mailbox.put,
        lambda ready, data: load_kernel(data, ready.sha256),
        **options,  # type: ignore[arg-type]
    )
    try:
        yield loader, lambda: mailbox.get(timeout=TIMEOUT_S)
    finally:
        loader.close()
    with pytest.raises(Empty):
        mailbox.get_nowait()


def refusal_of(store: KernelStore, ready: KernelReady) -> str:
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        refused = delivery()
    assert isinstance(refused, KernelRefused)
    assert refused.kernel_id == ready.kernel_id
    return refused.reason


def the_file(tmp_path: Path) -> Path:
    return next((tmp_path / "kernels").rglob("*.safetensors"))


def test_a_valid_kernel_is_verified_and_then_prepared(store: KernelStore) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        assert delivery() == KernelVerified(ready)
        loader.prepare("decision", [ready.kernel_id])
        prepared = delivery()
    assert isinstance(prepared, KernelsPrepared)
    assert prepared.token == "decision"
    kernel = prepared.kernels[ready.kernel_id]
    assert kernel.sha256 == ready.sha256
    x = torch.randn(2, 6)
    assert not kernel(x, x).any()


def test_a_repeated_announcement_is_not_verified_again(store: KernelStore, tmp_path: Path) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        assert delivery() == KernelVerified(ready)
        the_file(tmp_path).unlink()
        loader.verify(ready)
        loader.prepare("afterwards", [ready.kernel_id])
        assert isinstance(delivery(), KernelsPrepared)


def test_every_preparation_has_parameters_of_its_own(store: KernelStore) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        delivery()
        kernels = []
        for token in ("one", "two"):
            loader.prepare(token, [ready.kernel_id])
            prepared = delivery()
            assert isinstance(prepared, KernelsPrepared)
            kernels.append(prepared.kernels[ready.kernel_id])
    pointers = {value.data_ptr() for kernel in kernels for value in kernel.parameters()}
    assert len(pointers) == 2 * len(kernels[0].state_dict())


def test_a_kernel_altered_by_one_byte_in_the_store_is_refused(
    store: KernelStore, tmp_path: Path
) -> None:
    ready = announced(store)
    data = bytearray(the_file(tmp_path).read_bytes())
    data[-1] ^= 1
    the_file(tmp_path).write_bytes(data)
    assert "SHA-256" in refusal_of(store, ready)


def test_a_kernel_announced_with_another_digest_is_refused(store: KernelStore) -> None:
    ready = announced(store, sha256="0" * 64)
    assert "SHA-256" in refusal_of(store, ready)


def test_a_kernel_of_another_length_is_refused(store: KernelStore, tmp_path: Path) -> None:
    ready = announced(store)
    the_file(tmp_path).write_bytes(ARTIFACT[:-4])
    assert "bytes" in refusal_of(store, ready)


def test_a_kernel_signed_by_another_deployment_is_refused(
    store: KernelStore, tmp_path: Path
) -> None:
    other = SigningKey.load(create_keys(tmp_path / "other").private)
    assert "signature" in refusal_of(store, announced(store, key=other))


FORGED: dict[str, object] = {
    "kernel_id": "1" * 64,
    "blueprint_id": "another-name",
    "category": "another-category",
    "site_signature": SITE.model_copy(update={"h": (7,)}),
    "location": "file:elsewhere",
    "sha256": "1" * 64,
    "ed25519_signature": "1" * 128,
    "bytes": 1,
    "params": 1,
    "cost": KernelCost(flops=1),
}


@pytest.mark.parametrize("field", KernelReady.model_fields)
def test_an_announcement_with_any_field_changed_after_signing_is_refused(
    store: KernelStore, field: str
) -> None:
    forged = announced(store).model_copy(update={field: FORGED[field]})
    assert forged != announced(store)
    assert "the signature is not of this kernel-ready" in refusal_of(store, forged)


def test_a_revoked_kernel_is_refused_before_it_is_fetched(store: KernelStore) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.revoke(ready.sha256, "it leaks")
        loader.verify(ready)
        assert delivery() == KernelRefused(ready.kernel_id, "the kernel was revoked: it leaks")


def test_a_kernel_revoked_after_it_was_offered_is_refused_once_and_never_prepared(
    store: KernelStore,
) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        assert delivery() == KernelVerified(ready)
        for _ in range(2):
            loader.revoke(ready.sha256, "it leaks")
        assert delivery() == KernelRefused(ready.kernel_id, "the kernel was revoked: it leaks")
        loader.prepare("decision", [ready.kernel_id])
        assert delivery() == KernelsFailed("decision", "the kernel was revoked: it leaks")


def test_a_signed_kernel_announced_under_another_id_is_refused(store: KernelStore) -> None:
    renamed = announced(store, kernel_id="0" * 64)
    assert "holds kernel" in refusal_of(store, renamed)


def test_a_signed_kernel_announced_for_another_site_is_refused(store: KernelStore) -> None:
    other = SITE.model_copy(update={"h": (7,)})
    moved = announced(store, site_signature=other)
    assert "for a site of" in refusal_of(store, moved)


def test_signed_bytes_that_are_no_artifact_are_refused(store: KernelStore) -> None:
    assert "not JSON" in refusal_of(store, announced(store, b"\x00" * 100))


def test_a_kernel_that_is_not_in_the_store_is_refused(store: KernelStore, tmp_path: Path) -> None:
    ready = announced(store)
    the_file(tmp_path).unlink()
    assert "no kernel at" in refusal_of(store, ready)


def test_a_fetch_is_retried_until_the_store_is_reachable(
    store: KernelStore, tmp_path: Path
) -> None:
    ready = announced(store)
    folder, aside = the_file(tmp_path).parent, tmp_path / "aside"
    folder.rename(aside)
    folder.write_text("in the way: reading below it fails, but not as missing")
    with loading(store, retry_delays_s=(0.05,) * 100) as (loader, delivery):
        loader.verify(ready)
        loader.prepare("meanwhile", [ready.kernel_id])
        assert isinstance(delivery(), KernelsFailed)
        folder.unlink()
        aside.rename(folder)
        assert delivery() == KernelVerified(ready)


def test_fetching_from_an_unreachable_store_fails_after_its_retries(store: KernelStore) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = open_store(f"redis://127.0.0.1:{free.getsockname()[1]}/0")
    ready = announced(store, location=f"redis:{'0' * 64}/{'0' * 64}")
    with loading(away, retry_delays_s=(0.01, 0.01)) as (loader, delivery):
        loader.verify(ready)
        refused = delivery()
    assert isinstance(refused, KernelRefused)
    assert "does not answer" in refused.reason


def test_a_kernel_that_was_never_verified_is_not_prepared(store: KernelStore) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.prepare("decision", [ready.kernel_id])
        unprepared = delivery()
    assert isinstance(unprepared, KernelsFailed)
    assert "was not verified by this loader" in unprepared.reason


def test_a_withdrawn_kernel_is_not_prepared_until_it_is_verified_again(store: KernelStore) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        assert delivery() == KernelVerified(ready)
        loader.withdraw(ready.kernel_id)
        loader.withdraw("unknown")
        loader.prepare("decision", [ready.kernel_id])
        unprepared = delivery()
        loader.verify(ready)
        assert delivery() == KernelVerified(ready)
    assert isinstance(unprepared, KernelsFailed)
    assert "withdrawn" in unprepared.reason


def test_kernels_are_prepared_all_or_none(store: KernelStore) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        delivery()
        loader.prepare("decision", [ready.kernel_id, "0" * 64])
        assert isinstance(delivery(), KernelsFailed)


def test_a_verified_kernel_is_prepared_while_the_store_is_away(
    store: KernelStore, tmp_path: Path
) -> None:
    ready = announced(store)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        delivery()
        the_file(tmp_path).unlink()
        loader.prepare("decision", [ready.kernel_id])
        assert isinstance(delivery(), KernelsPrepared)


def test_bytes_dropped_from_memory_are_fetched_and_verified_again(
    store: KernelStore, tmp_path: Path
) -> None:
    ready = announced(store)
    with loading(store, cache_bytes=0) as (loader, delivery):
        loader.verify(ready)
        delivery()
        loader.prepare("first", [ready.kernel_id])
        assert isinstance(delivery(), KernelsPrepared)
        data = bytearray(the_file(tmp_path).read_bytes())
        data[-1] ^= 1
        the_file(tmp_path).write_bytes(data)
        loader.prepare("second", [ready.kernel_id])
        unprepared = delivery()
    assert isinstance(unprepared, KernelsFailed)
    assert "SHA-256" in unprepared.reason


def test_weights_are_those_that_were_signed(store: KernelStore) -> None:
    plan, tensors = unpack(ARTIFACT)
    changed = pack(plan, tensors | {"down.bias": torch.ones(4)})
    ready = announced(store, changed)
    with loading(store) as (loader, delivery):
        loader.verify(ready)
        delivery()
        loader.prepare("decision", [ready.kernel_id])
        prepared = delivery()
    assert isinstance(prepared, KernelsPrepared)
    assert torch.equal(prepared.kernels[ready.kernel_id].state_dict()["down.bias"], torch.ones(4))
