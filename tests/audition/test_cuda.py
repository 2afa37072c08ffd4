"""Snapshots of a host on a GPU: taken there, equal to those of the CPU, and auditioned anywhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.audition import AuditionSite, audition_control, audition_kernel, unpack_snapshot
from esper.blueprint import shipped_named
from esper.compiler import BlueprintCompiler
from esper.kernel import load_kernel, pack
from esper.seed import find_sites
from esper.topics.codec import sha256_of
from esper.topics.models import Audition
from esper.training.auditions import Auditions
from tests.training.grow_fixture import RUN, decision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Channel:
    """Keeps the snapshots."""

    def __init__(self) -> None:
        self.snapshots: dict[str, bytes | str] = {}

    def send_snapshot(
        self, snapshot_id: str, site: str, step: int, samples: int, data: bytes | str
    ) -> None:
        self.snapshots[site] = data

    def send_auditions(self, auditions: tuple[Audition, ...]) -> None:
        pass


def taken(device: str, *, autocast: bool = False) -> tuple[Channel, dict[str, object]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).to(device)
    inputs: Tensor = torch.randn(200, 12).to(device)
    targets = torch.randint(4, (200,)).to(device)
    channel = Channel()
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        sites = find_sites(model, ["0"], inputs[:1], 1)
        auditions = Auditions(model, sites, (inputs, targets), F.cross_entropy)
        auditions.connect(channel)
        plan = decision(run_id=RUN)
        asked = Audition(
            site="0",
            kernel_ids=("a" * 64,),
            rung=0,
            steps=10,
            snapshot_id=plan.decision_id,
        )
        auditions.request(plan.model_copy(update={"operations": (), "auditions": (asked,)}))
        for step in range(1, 6):
            auditions.advance(step)
    return channel, dict(sites)


def test_a_snapshot_of_a_gpu_is_that_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        data = taken(device)[0].snapshots["0"]
        assert isinstance(data, bytes), data
        found.append(unpack_snapshot(data))
    cpu, cuda = found
    for name in ("x", "h", "outputs"):
        torch.testing.assert_close(getattr(cuda, name), getattr(cpu, name), rtol=1e-3, atol=1e-4)
    assert torch.equal(cuda.targets, cpu.targets)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_kernel_for_a_gpu_is_auditioned_on_either_device(autocast: bool, device: str) -> None:
    channel, sites = taken("cuda", autocast=autocast)
    data = channel.snapshots["0"]
    assert isinstance(data, bytes), data
    signature = sites["0"].signature  # type: ignore[attr-defined]
    site = AuditionSite.of(signature, unpack_snapshot(data), device)
    plan = BlueprintCompiler().compile(shipped_named("low-rank-skip"), signature)
    first, second = audition_kernel(plan, [site, site], 20, seed=0)
    assert first.score.error > 0
    artifact = pack(plan, first.weights)
    assert load_kernel(artifact, sha256_of(artifact)).is_no_op
    torch.testing.assert_close(first.score.gain, second.score.gain)
    assert audition_control([site], 20, seed=0)[0].error > 0


def test_a_gpu_without_memory_refuses_the_audition_and_nothing_else() -> None:
    data = taken("cuda")[0].snapshots["0"]
    assert isinstance(data, bytes), data
    sites = taken("cuda")[1]
    signature = sites["0"].signature  # type: ignore[attr-defined]
    site = AuditionSite.of(signature, unpack_snapshot(data), "cuda")
    plan = BlueprintCompiler().compile(shipped_named("low-rank-skip"), signature)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            audition_kernel(plan, [site] * 16, 20, seed=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert audition_kernel(plan, [site], 20, seed=0)[0].score.error > 0
