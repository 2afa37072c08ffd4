"""Redis with TLS and one user for each process: kernels and the memory of runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from esper.bandit import MemoryUpdate
from esper.settings import Settings
from esper.store import (
    KernelStore,
    RedisRunMemory,
    StoreCredentials,
    StoreUnavailable,
    StoreUrlInvalid,
    open_store,
)
from tests.security.certificates import Authority
from tests.security.conftest import RedisAccess, password_file

KERNEL_ID = "0" * 64


def settings_of(redis: RedisAccess, user: str, **changed: object) -> Settings:
    """Return the settings of a process that logs in as a user."""
    return Settings.model_validate(redis.environment(user) | changed)


def store_of(settings: Settings) -> KernelStore:
    """Return the kernel store of a process."""
    return open_store(settings.kernel_store_spec, settings.store_credentials)


def memory_of(settings: Settings) -> RedisRunMemory:
    """Return the run memory of a process."""
    assert settings.redis_url is not None
    return RedisRunMemory(settings.redis_url, settings.store_credentials)


def fold(memory: RedisRunMemory) -> bool:
    """Add a run to the memory."""
    return memory.fold("digits", [MemoryUpdate("sig", "arm", 1.0, 0.5)], run_id="one", at_ms=1)


def test_a_trainer_reads_what_a_compile_worker_stored(redis: RedisAccess) -> None:
    location = store_of(settings_of(redis, "esper-compile")).put(KERNEL_ID, b"artifact").location
    assert store_of(settings_of(redis, "esper-trainer")).get(location) == b"artifact"


def test_a_trainer_reads_the_memory_that_a_bandit_worker_wrote(redis: RedisAccess) -> None:
    fold(memory_of(settings_of(redis, "esper-bandit")))
    assert memory_of(settings_of(redis, "esper-trainer")).read("digits").runs == ("one",)


FORBIDDEN: dict[str, tuple[str, Callable[[Settings], object]]] = {
    "a trainer stores no kernel": (
        "esper-trainer",
        lambda s: store_of(s).put(KERNEL_ID, b"artifact"),
    ),
    "a trainer writes no memory": ("esper-trainer", lambda s: fold(memory_of(s))),
    "a bandit worker stores no kernel": (
        "esper-bandit",
        lambda s: store_of(s).put(KERNEL_ID, b"artifact"),
    ),
    "a compile worker writes no memory": ("esper-compile", lambda s: fold(memory_of(s))),
}


@pytest.mark.parametrize("case", FORBIDDEN.values(), ids=FORBIDDEN)
def test_redis_refuses_each_forbidden_write(
    redis: RedisAccess, case: tuple[str, Callable[[Settings], object]]
) -> None:
    user, write = case
    with pytest.raises(StoreUnavailable, match=r"forbids it .* check the user's ACL") as caught:
        write(settings_of(redis, user))
    assert "\n" not in str(caught.value)


def test_a_wrong_password_is_one_line(redis: RedisAccess) -> None:
    file = password_file(redis.folder / "wrong", "hunter2-wrong")
    settings = settings_of(redis, "esper-trainer", ESPER_REDIS_PASSWORD_FILE=file)
    with pytest.raises(StoreUnavailable, match="refuses the user or the password") as caught:
        store_of(settings).ping()
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_of_another_authority_is_refused(redis: RedisAccess, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger-ca")
    settings = settings_of(redis, "esper-trainer", ESPER_REDIS_CA_FILE=stranger.file)
    with pytest.raises(StoreUnavailable, match=r"TLS failed .* check ESPER_REDIS_CA_FILE"):
        store_of(settings).ping()


def test_a_ca_file_and_a_url_without_tls_contradict_each_other(tmp_path: Path) -> None:
    credentials = StoreCredentials(redis_ca_file=tmp_path / "ca.pem")
    with pytest.raises(StoreUrlInvalid, match="without TLS, but ESPER_REDIS_CA_FILE is set"):
        open_store("redis://host/0", credentials)
