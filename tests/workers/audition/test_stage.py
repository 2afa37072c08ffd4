"""One audition in a worker: equal results on every worker, and a reason where there is no gain."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.audition import AuditionLoss, SiteSnapshot, pack_snapshot
from esper.blueprint import request_for, shipped_named
from esper.compiler import Built, build_kernel
from esper.kernel import load_kernel, sign_announcement
from esper.settings import Settings
from esper.signing import create_keys
from esper.store import KernelStore, open_store
from esper.topics.codec import encode, sha256_of
from esper.topics.models import (
    AuditionRequested,
    AuditionTarget,
    KernelReady,
    SiteKind,
    SiteSignature,
    SnapshotArtifact,
)
from esper.workers.audition import NoDevice, run_audition_worker
from esper.workers.audition.attempts import MAX_ATTEMPTS, Attempts
from esper.workers.audition.stage import AuditionStage
from tests.keys import KEY, TRUSTED

SIGNATURE = SiteSignature(kind=SiteKind.VECTOR, x=(12,), h=(6,))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KernelStore]:
    with open_store(f"file:{tmp_path}") as opened:
        yield opened


def announced(store: KernelStore, name: str = "dropout-mlp") -> KernelReady:
    """Build, store and announce a kernel."""
    blueprint = shipped_named(name)
    request = request_for(blueprint, SIGNATURE)
    made = build_kernel(request)
    assert isinstance(made, Built)
    unsigned = KernelReady(
        kernel_id=request.kernel_id,
        blueprint_id=name,
        category=blueprint.category,
        site_signature=SIGNATURE,
        location=store.put(request.kernel_id, made.artifact).location,
        sha256=made.sha256,
        ed25519_signature="0" * 128,
        bytes=len(made.artifact),
        params=made.characterisation.params,
    )
    return sign_announcement(KEY, unsigned)


def stored(store: KernelStore, data: bytes, **changed: Any) -> SnapshotArtifact:
    """Store the bytes of a snapshot."""
    artifact = SnapshotArtifact(
        locations=(store.put("5" * 64, data).location,),
        sha256=sha256_of(data),
        bytes=len(data),
        samples=200,
        step=7,
    )
    return artifact.model_copy(update=changed)


def snapshot(x: int = 12, h: int = 6, *, seed: int = 0) -> bytes:
    """Return samples whose label is in h, and which no linear readout finds there."""
    torch.manual_seed(seed)
    hidden = torch.randn(400, h)
    labels = (hidden[:, :1].abs() > 0.7).long()
    return pack_snapshot(
        SiteSnapshot(
            torch.randn(400, x),
            hidden,
            torch.randn(400, 1, 2),
            labels,
            AuditionLoss.CROSS_ENTROPY,
        )
    )


def request(
    kernel: KernelReady, *taken: SnapshotArtifact, steps: int = 30, rung: int = 0
) -> AuditionRequested:
    """Request a kernel at the sites `fc0`, `fc1`, …, one for each snapshot."""
    targets = tuple(
        AuditionTarget(audition_id=str(index) * 64, site=f"fc{index}", snapshot=snapshot)
        for index, snapshot in enumerate(taken)
    )
    return AuditionRequested(
        run_id="run-1",
        kernel_id=kernel.kernel_id,
        kernel=kernel,
        targets=targets,
        rung=rung,
        steps=steps,
        seed=4,
    )


def stage(store: KernelStore, **more: Any) -> AuditionStage:
    attempts = Attempts(Path(tempfile.mkdtemp()))
    return AuditionStage(store, TRUSTED, more.pop("attempts", attempts), "audition-0", **more)


def test_a_result_has_gain_error_control_cost_and_the_trained_weights(store: KernelStore) -> None:
    kernel = announced(store)
    (found,) = stage(store).perform(request(kernel, stored(store, snapshot()), steps=70))
    result = found.result
    assert result.gain is not None and result.error is not None and result.error > 0
    assert result.control_gain is not None and result.host_loss is not None
    assert result.seconds > 0 and result.cpu_seconds > 0 and result.worker == "audition-0"
    assert [point.step for point in result.curve] == [0, 20, 40, 70]
    assert found.artifact is not None and result.trained_sha256 == sha256_of(found.artifact)
    assert load_kernel(found.artifact, result.trained_sha256).is_no_op


def test_a_result_does_not_depend_on_what_the_worker_did_before(store: KernelStore) -> None:
    first, second = announced(store), announced(store, "gated-linear-unit")
    taken, other = stored(store, snapshot()), stored(store, snapshot(seed=1))
    busy = stage(store)
    for one in (request(first, taken), request(second, other, taken), request(first, other)):
        busy.perform(one)
    asked = request(first, taken, steps=70, rung=1)
    (late,), (alone,) = busy.perform(asked), stage(store).perform(asked)
    assert late.artifact == alone.artifact is not None
    varying = {"seconds", "cpu_seconds"}
    assert late.result.model_dump(exclude=varying) == alone.result.model_dump(exclude=varying)


def test_a_site_that_cannot_be_used_leaves_the_others_of_a_request(store: KernelStore) -> None:
    good = stored(store, snapshot())
    bad = good.model_copy(update={"sha256": "8" * 64})
    found = {
        one.result.site: one.result
        for one in stage(store).perform(request(announced(store), good, bad, good))
    }
    assert found["fc0"].gain == found["fc2"].gain is not None
    assert found["fc1"].gain is None
    assert "not the snapshot that was requested" in (found["fc1"].reason or "")
    assert [found[site].audition_id[0] for site in ("fc0", "fc1", "fc2")] == ["0", "1", "2"]


def test_weights_that_gained_no_more_than_the_control_are_not_kept(store: KernelStore) -> None:
    (found,) = stage(store).perform(
        request(announced(store, "identity"), stored(store, snapshot()))
    )
    result = found.result
    assert result.gain is not None and result.control_gain is not None
    kept = result.gain > result.control_gain
    assert (found.artifact is not None) == (result.trained_sha256 is not None) == kept


@pytest.mark.parametrize("fault", ["missing", "altered", "other bytes", "other shape", "unsigned"])
def test_what_cannot_be_used_is_a_result_with_a_reason(store: KernelStore, fault: str) -> None:
    kernel, taken = announced(store), stored(store, snapshot())
    reason = {
        "missing": "no kernel at",
        "altered": "not the snapshot that was requested",
        "other bytes": "not a safetensors file",
        "other shape": "RuntimeError",
        "unsigned": "signature",
    }[fault]
    if fault == "missing":
        taken = taken.model_copy(update={"locations": (f"{'6' * 64}/{'7' * 64}",)})
    elif fault == "altered":
        taken = taken.model_copy(update={"sha256": "8" * 64})
    elif fault == "other bytes":
        taken = stored(store, b"no snapshot" * 20)
    elif fault == "other shape":
        taken = stored(store, snapshot(x=5))
    else:
        kernel = kernel.model_copy(update={"ed25519_signature": "0" * 128})
    (found,) = stage(store).perform(request(kernel, taken))
    assert found.artifact is None
    assert found.result.gain is None
    assert reason in (found.result.reason or "")


def test_a_worker_for_a_gpu_that_is_not_there_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_keys(tmp_path / "keys")
    settings = Settings(
        ESPER_HOME=tmp_path, ESPER_AUDITION_DEVICE="cuda", ESPER_SIGNING_KEY_FILE=made.private
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoDevice, match="ESPER_AUDITION_DEVICE=cpu"):
        run_audition_worker(settings)


def test_a_kernel_beyond_its_time_limit_fails_with_the_reason(store: KernelStore) -> None:
    kernel, taken = announced(store), stored(store, snapshot())
    (found,) = stage(store, limit_s=0.0).perform(request(kernel, taken))
    assert found.result.gain is None and found.artifact is None
    assert "time limit" in (found.result.reason or "")


def test_a_kernel_in_whose_audition_the_process_ends_is_given_up(
    store: KernelStore, tmp_path: Path
) -> None:
    """The process ends in the middle of the training, five times; the sixth start gives up."""
    kernel, taken = announced(store), stored(store, snapshot())
    asked = request(kernel, taken)
    attempts = tmp_path / "attempts"
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from esper.topics.codec import decode\nfrom esper.topics.models import AuditionRequested\n"
        "from esper.workers.audition.attempts import Attempts\n"
        "asked = decode(AuditionRequested, Path(sys.argv[1]).read_bytes())\n"
        "with Attempts(Path(sys.argv[2])).attempt(asked):\n    os._exit(9)\n"
    )
    (tmp_path / "request").write_bytes(encode(asked))
    for _ in range(MAX_ATTEMPTS):
        ended = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "request", attempts], check=False
        )
        assert ended.returncode == 9
    (found,) = stage(store, attempts=Attempts(attempts)).perform(asked)
    assert "ended 5 times" in (found.result.reason or "")
    (again,) = stage(store, attempts=Attempts(attempts)).perform(asked)
    assert again.result.gain is not None
    assert list(attempts.iterdir()) == []
