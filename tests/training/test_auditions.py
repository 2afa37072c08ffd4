"""Snapshots in the trainer: what they hold, when they are taken, and what they leave unchanged."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.audition import SiteSnapshot, unpack_snapshot
from esper.blueprint import request_for, shipped_named
from esper.compiler import Built, build_kernel
from esper.kernel import load_kernel
from esper.seed import Seed, find_sites
from esper.topics.models import Audition
from esper.training import auditions
from esper.training.auditions import CHUNK, Auditions, SamplesRefused
from tests.training.grow_fixture import RUN, decision

KERNELS = ("a" * 64, "b" * 64)


class Channel:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.snapshots: dict[str, bytes | str] = {}
        self.counts: dict[str, int] = {}
        self.steps: list[int] = []
        self.auditions: list[Audition] = []

    def send_snapshot(
        self, snapshot_id: str, site: str, step: int, samples: int, data: bytes | str
    ) -> None:
        self.snapshots[site] = data
        self.counts[site] = samples
        self.steps.append(step)

    def send_auditions(self, auditions: tuple[Audition, ...]) -> None:
        self.auditions.extend(auditions)


class Host(nn.Module):
    """A convolution, dropout, a batch norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.norm(self.conv(x))).flatten(1))
        return out


class Run:
    """Auditions of a host on given samples."""

    def __init__(self, count: int = 150, loss_fn: Any = F.cross_entropy) -> None:
        torch.manual_seed(0)
        self.model = Host().train()
        self.inputs, self.targets = torch.randn(count, 2, 5), torch.randint(4, (count,))
        self.sites = find_sites(self.model, ["conv", "fc"], torch.randn(2, 2, 5), 1)
        self.auditions = Auditions(self.model, self.sites, (self.inputs, self.targets), loss_fn)
        self.channel = Channel()
        self.auditions.connect(self.channel)

    def ask(self, rung: int = 0, *sites: str) -> None:
        plan = decision(run_id=RUN)
        asked = tuple(
            Audition(
                site=site, kernel_ids=KERNELS, rung=rung, steps=10, snapshot_id=plan.decision_id
            )
            for site in sites or ("conv", "fc")
        )
        self.auditions.request(plan.model_copy(update={"operations": (), "auditions": asked}))

    def go(self, steps: int) -> None:
        for step in range(1, steps + 1):
            self.auditions.advance(step)

    def snapshot(self, site: str) -> SiteSnapshot:
        data = self.channel.snapshots[site]
        assert isinstance(data, bytes)
        return unpack_snapshot(data)


def test_a_snapshot_holds_what_the_site_saw_and_what_the_host_made_of_it() -> None:
    run = Run()
    run.ask()
    run.go(3)
    run.model.eval()
    with torch.no_grad():
        outputs = run.model(run.inputs)
        h = run.model.conv(run.inputs)
        x = run.model.norm(h).flatten(1)
    fc, conv = run.snapshot("fc"), run.snapshot("conv")
    torch.testing.assert_close(fc.outputs[:, 0], outputs)
    torch.testing.assert_close(fc.x, x)
    torch.testing.assert_close(fc.h, outputs)
    assert torch.equal(fc.targets[:, 0], run.targets)
    # As kernels see it: a sequence of positions.
    torch.testing.assert_close(conv.x, run.inputs.mT)
    torch.testing.assert_close(conv.h, h.mT)


def test_each_step_observes_one_chunk_and_the_last_sends_all() -> None:
    run = Run(count=2 * CHUNK + 1)
    run.ask()
    run.go(2)
    assert not run.channel.snapshots and not run.channel.auditions
    run.auditions.advance(3)
    assert run.channel.snapshots.keys() == {"conv", "fc"}
    assert run.channel.steps == [3, 3]
    assert len(run.channel.auditions) == 2
    assert run.auditions.outstanding == 4


def test_a_site_of_large_tensors_keeps_the_samples_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(count=3 * CHUNK)
    chunk = CHUNK * 4 * (15 + 4)
    monkeypatch.setattr(auditions, "MAX_SNAPSHOT_BYTES", 2 * chunk)
    run.ask(0, "fc")
    run.go(3)
    assert run.channel.counts == {"fc": 2 * CHUNK}
    shown = run.snapshot("fc")
    assert len(shown) == len(shown.x) == len(shown.outputs) == 2 * CHUNK
    assert torch.equal(shown.targets[:, 0], run.targets[: 2 * CHUNK])


def test_a_later_rung_takes_no_snapshot() -> None:
    run = Run()
    run.ask(1, "fc")
    assert run.channel.snapshots == {}
    assert [audition.site for audition in run.channel.auditions] == ["fc"]


def test_training_notices_nothing() -> None:
    run = Run()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    run.ask()
    run.go(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.model.training and run.model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert not run.model.conv._forward_pre_hooks


def test_h_is_the_layers_own_output_where_a_seed_adds_to_it() -> None:
    run = Run()
    site = run.sites["fc"]
    made = build_kernel(request_for(shipped_named("low-rank-skip"), site.signature))
    assert isinstance(made, Built)
    seed = Seed(load_kernel(made.artifact, made.sha256))
    for parameter in seed.kernel.parameters():
        nn.init.ones_(parameter)
    site.plant(0, seed)
    seed.alpha.fill_(1.0)
    run.ask(0, "fc")
    run.go(3)
    taken = run.snapshot("fc")
    own = F.linear(taken.x, run.model.fc.weight, run.model.fc.bias).detach()
    torch.testing.assert_close(taken.h, own)
    assert not torch.allclose(taken.outputs[:, 0], own)


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=0.3), "cannot"),
        (
            lambda outputs, targets: F.cross_entropy(
                outputs, targets, weight=torch.tensor([1.0, 5.0, 1.0, 1.0])
            ),
            "cannot compute the loss",
        ),
    ],
    ids=["label smoothing", "class weights"],
)
def test_a_loss_that_an_audition_cannot_compute_is_said(loss_fn: Any, words: str) -> None:
    run = Run(loss_fn=loss_fn)
    run.ask()
    run.go(3)
    for reason in run.channel.snapshots.values():
        assert isinstance(reason, str)
        assert words in reason


@pytest.mark.parametrize("count", [1, 20])
def test_too_few_samples_are_a_reason(count: int) -> None:
    run = Run(count=count)
    run.ask()
    run.go(1)
    assert "too few" in str(run.channel.snapshots["fc"])


def test_unequal_numbers_of_inputs_and_targets_are_refused() -> None:
    run = Run()
    samples = run.inputs, run.targets[:-1]
    with pytest.raises(SamplesRefused, match="150 inputs and 149 targets"):
        Auditions(run.model, run.sites, samples, F.cross_entropy)


def test_samples_that_the_model_cannot_take_end_the_snapshot_and_not_the_training() -> None:
    run = Run()
    samples = torch.randn(100, 7, 5), torch.randint(4, (100,))
    run.auditions = Auditions(run.model, run.sites, samples, F.cross_entropy)
    run.auditions.connect(run.channel)
    run.ask()
    run.go(2)
    for reason in run.channel.snapshots.values():
        assert "the model cannot run on the audition samples" in str(reason)
    assert not run.model.conv._forward_pre_hooks
    assert not run.model.fc._forward_pre_hooks
    assert len(run.channel.auditions) == 2


def test_a_loss_function_that_fails_on_them_ends_the_snapshot_and_not_the_training() -> None:
    def fails(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("only batches of 64")

    run = Run(loss_fn=fails)
    run.ask()
    run.go(3)
    assert set(run.channel.snapshots.values()) == {"only batches of 64"}
