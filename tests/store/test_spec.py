"""The list of tiers: what is accepted, and what a refusal says."""

from pathlib import Path

import pytest

from esper.store import StoreUrlInvalid, open_store, tiers_of
from esper.store.spec import urls_of


def addresses(spec: str) -> list[str]:
    return [tier.address for tier in tiers_of(spec)]


def test_a_list_names_tiers_from_the_fastest_to_the_durable_one() -> None:
    store = open_store("memory:64MiB,redis://cache:6379/1,postgresql://esper@db:5433/kernels")
    assert [(tier.tier, tier.durable) for tier in store.health()] == [
        ("memory", False),
        ("redis", False),
        ("postgresql", True),
    ]


def test_one_url_is_a_list_of_one_tier(tmp_path: Path) -> None:
    assert addresses(f"file:{tmp_path}") == [f"file:{tmp_path}"]
    assert addresses("redis://h:1/0") == ["redis://h:1/0"]


def test_tiers_of_one_kind_have_names_of_their_own() -> None:
    store = open_store("redis://one/0,redis://two/0")
    assert [tier.tier for tier in store.health()] == ["redis-1", "redis-2"]


def test_a_comma_may_be_part_of_a_url() -> None:
    spec = "memory:1MiB, file:/a,b , postgresql://u@one,two:5433/db"
    assert urls_of(spec) == ["memory:1MiB", "file:/a,b", "postgresql://u@one,two:5433/db"]


def test_no_address_shows_a_password() -> None:
    spec = "redis://user:secret@h:1/0?ttl=1h&limit=5MiB,postgresql://u:secret@h:2/db?sslmode=prefer"
    assert addresses(spec) == ["redis://h:1/0", "postgresql://h:2/db"]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("", "ESPER_KERNEL_STORE"),
        ("s3://bucket", "ESPER_KERNEL_STORE"),
        ("/var/kernels", "ESPER_KERNEL_STORE"),
        ("file:", "ESPER_KERNEL_STORE"),
        ("memory:64MiB", "must be durable"),
        ("file:/a,memory:64MiB", "must be durable"),
        ("memory:64,file:/a", "'64' .* no size"),
        ("memory:0MiB,file:/a", "no size"),
        ("redis://h/0?ttl=soon,file:/a", "'soon' .* no duration"),
        ("redis://h/0?limit=all,file:/a", "'all' .* no size"),
        ("redis://h/0?ttl=1d", "a durable tier drops nothing"),
        ("redis://host:port/0", "no Redis URL"),
        ("postgresql://h:port:1/%", "postgresql URL is malformed"),
    ],
)
def test_a_malformed_list_is_refused_with_the_remedy(spec: str, what: str) -> None:
    with pytest.raises(StoreUrlInvalid, match=what):
        open_store(spec)


@pytest.mark.parametrize(
    "spec",
    ["ftp://u:secret@h/0", "postgresql://u:secret@h:port:1/%", "redis://u:secret@host:port/0"],
)
def test_a_refusal_shows_no_password(spec: str) -> None:
    with pytest.raises(StoreUrlInvalid) as refusal:
        open_store(spec)
    assert "secret" not in str(refusal.value)
