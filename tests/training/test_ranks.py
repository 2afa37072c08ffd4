"""Two ranks under torchrun apply the same decisions; if one rank cannot, no rank does."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from esper.seed import find_sites
from esper.settings import Settings
from esper.topics.catalog import KERNEL_READY
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    DecisionOutcome,
    KernelReady,
    OutcomeStatus,
)
from tests.seed.hosts import host, images
from tests.seed.kernels import announced
from tests.seed.ranks import ROOT
from tests.training.fake_workers import WAIT_S, Outside
from tests.training.grow_fixture import decision, planting
from tests.training.two_ranks import CHECKPOINT

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
START_S = 240.0
"""Three processes load torch, possibly from a cold disk."""

APPLIED, REFUSED = OutcomeStatus.APPLIED, OutcomeStatus.REFUSED
SAME = [["conv", "fc1"], ["conv", "fc1"]]


class Torchrun:
    """Two running ranks; the test acts as bandit and compile worker."""

    def __init__(self, settings: Settings, outside: Outside, folder: Path) -> None:
        self._settings, self._outside, self.folder = settings, outside, folder
        self._process: subprocess.Popen[str] | None = None

    def start(self, **orders: Any) -> None:
        for word in ("save", "end"):
            (self.folder / word).unlink(missing_ok=True)
        (self.folder / "orders.json").write_text(
            json.dumps({"sites": SAME, "device": "cpu", **orders})
        )
        environment = self._settings.model_dump(mode="json", by_alias=True, exclude_none=True)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", "2", "-m", "tests.training.two_ranks", str(self.folder)]
        self._process = subprocess.Popen(
            launch,
            cwd=ROOT,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def saw(self, *, ends: bool = True) -> list[dict[str, Any]]:
        """Wait for the end, requested unless `ends` is False; return the observations by rank."""
        if ends:
            self.ask("end")
        assert self._process is not None
        output, _ = self._process.communicate(timeout=START_S)
        assert self._process.returncode == 0, output
        return [json.loads((self.folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]

    def ask(self, word: str) -> None:
        """Ask all ranks to save, or to end."""
        (self.folder / word).touch()

    def kill(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def weights(self, rank: int) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = torch.load(
            self.folder / f"rank-{rank}.pt", weights_only=True, map_location="cpu"
        )
        return found

    @property
    def run_id(self) -> str:
        eventually("the run", (self.folder / "run").exists, START_S)
        time.sleep(0.01)
        return (self.folder / "run").read_text()

    def offer(self, ready: KernelReady) -> None:
        """Publish a kernel and wait until the run reports it as loadable."""
        self._outside.publish(KERNEL_READY, ready)
        run_id = self.run_id
        eventually("an offer", lambda: ready.kernel_id in self._offered(run_id))

    def decide(self, plan: AdaptationDecision) -> DecisionOutcome:
        """Publish a decision and return its outcome."""
        decided = self._outside.decide(plan)
        found: list[DecisionOutcome] = eventually(
            "an outcome",
            lambda: [
                outcome
                for report in self._outside.reports(plan.run_id)
                for outcome in report.outcomes
                if outcome.decision_id == decided.decision_id
            ],
        )
        return found[0]

    def _offered(self, run_id: str) -> set[str]:
        reports = self._outside.reports(run_id)
        return {kernel.kernel_id for report in reports for kernel in report.kernels}


def eventually(what: str, found: Callable[[], Any], limit_s: float = WAIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"this did not come: {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def torchrun(settings: Settings, outside: Outside, tmp_path: Path) -> Iterator[Torchrun]:
    made = Torchrun(settings, outside, tmp_path)
    yield made
    made.kill()


class Story(NamedTuple):
    """Outcomes by name, observations by rank, and kernels by role."""

    outcomes: dict[str, DecisionOutcome]
    saw: list[dict[str, Any]]
    kernels: dict[str, KernelReady]
    weights: list[dict[str, torch.Tensor]]


@pytest.mark.heavy
@pytest.mark.parametrize("device", DEVICES)
def test_all_ranks_resume_from_a_checkpoint_and_repeat_the_steps_after_it(
    torchrun: Torchrun, outside: Outside, device: str
) -> None:
    blueprints = ["low-rank-skip", "gated-linear-unit"]
    site = find_sites(host().to(device), ["fc1"], images(1).to(device), slots=3)["fc1"]
    kernels = [announced(outside.store, name, site.signature) for name in blueprints]
    torchrun.start(device=device, preempted=True)
    for ready in kernels:
        torchrun.offer(ready)
    run_id = torchrun.run_id
    plans = [
        decision(planting(site, slot, blueprint), run_id=run_id)
        for slot, blueprint in enumerate(blueprints)
    ]
    torchrun.decide(plans[0])
    torchrun.ask("save")
    eventually("a checkpoint", lambda: (torchrun.folder / CHECKPOINT).exists())
    torchrun.decide(plans[1])
    cull = Cull(site="fc1", slot=0, kernel_id=kernels[0].kernel_id)
    torchrun.decide(decision(cull, run_id=run_id))
    first, _ = torchrun.saw()
    weights = torchrun.weights(0)
    assert len(first["planted"]) > 3
    torchrun.start(device=device, resumes=True, last_step=first["last_step"])
    second = torchrun.saw(ends=False)
    for rank in (0, 1):
        assert second[rank]["planted"][-2:] == first["planted"][-2:]
        assert second[rank]["states"] == first["states"]
        again = torchrun.weights(rank)
        assert again.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(again[name], value, rtol=0, atol=0, msg=name)
    reports = outside.reports(run_id)
    assert [report.seq for report in reports] == list(range(len(reports)))


@pytest.mark.parametrize("device", DEVICES)
def test_all_ranks_apply_a_decision_at_one_step_or_refuse_it_if_one_rank_cannot_load(
    torchrun: Torchrun, outside: Outside, device: str
) -> None:
    story = run_story(torchrun, outside, device)
    outcomes, kernels = story.outcomes, story.kernels

    assert [outcome.status for outcome in outcomes.values()] == [
        APPLIED, REFUSED, REFUSED, REFUSED, REFUSED, APPLIED, APPLIED,
    ]  # fmt: skip
    assert outcomes["fails"].reason == "rank 1: no room on this GPU"
    assert outcomes["late"].reason == "rank 1: its kernels did not arrive in time"
    assert outcomes["breaks"].reason == (
        "rank 1: the plan failed and was rolled back: OutOfMemoryError: no room for its gradients"
    )
    assert outcomes["impossible"].reason is not None
    for rank in (0, 1):
        assert f"rank {rank}: seed conv/2 is dormant" in outcomes["impossible"].reason

    first, second = kernels["good"], kernels["again"]
    steps = [outcomes[name].step for name in ("good", "again", "cull")]
    for saw in story.saw:
        assert saw["planted"][-3:] == [
            [steps[0], [["fc1", 0, first.sha256]]],
            [steps[1], [["fc1", 0, first.sha256], ["fc1", 1, second.sha256]]],
            [steps[2], [["fc1", 1, second.sha256]]],
        ]
        assert "loading" not in saw["states"]
    one, other = story.weights
    assert any("kernel" in name for name in one)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def run_story(torchrun: Torchrun, outside: Outside, device: str) -> Story:
    blueprints = {
        "good": "low-rank-skip",
        "fails": "linear-bottleneck",
        "late": "gated-linear-unit",
        "breaks": "identity",
        "again": "low-rank-skip-wide",
    }
    site = find_sites(host().to(device), ["fc1"], images(1).to(device), slots=3)["fc1"]
    kernels = {
        name: announced(outside.store, blueprint, site.signature)
        for name, blueprint in blueprints.items()
    }
    spoilt = {name: kernels[name].sha256 for name in ("fails", "late", "breaks")}
    torchrun.start(device=device, **spoilt)
    run_id = torchrun.run_id
    for ready in kernels.values():
        torchrun.offer(ready)

    def plan(name: str, slot: int) -> AdaptationDecision:
        return decision(planting(site, slot, blueprints[name]), run_id=run_id)

    none = Cull(site="conv", slot=2, kernel_id=kernels["good"].kernel_id)
    cull = Cull(site="fc1", slot=0, kernel_id=kernels["good"].kernel_id)
    outcomes = {
        "good": torchrun.decide(plan("good", 0)),
        "fails": torchrun.decide(plan("fails", 1)),
        "late": torchrun.decide(plan("late", 1)),
        "breaks": torchrun.decide(plan("breaks", 1)),
        "impossible": torchrun.decide(decision(none, run_id=run_id)),
        "again": torchrun.decide(plan("again", 1)),
        "cull": torchrun.decide(decision(cull, run_id=run_id)),
    }
    return Story(outcomes, torchrun.saw(), kernels, [torchrun.weights(rank) for rank in (0, 1)])


def test_ranks_with_different_sites_are_refused_on_all_ranks(torchrun: Torchrun) -> None:
    torchrun.start(sites=[["conv", "fc1"], ["fc1"]])
    for saw in torchrun.saw():
        assert saw["refused"] == "RanksDiffer"
        assert saw["why"].startswith("rank 1 called grow with another model, other sites or other")


def test_no_rank_starts_if_rank_0_cannot_start(
    settings: Settings, outside: Outside, tmp_path: Path
) -> None:
    nowhere = settings.model_copy(update={"trusted_key_file": tmp_path / "missing.pem"})
    torchrun = Torchrun(nowhere, outside, tmp_path)
    torchrun.start()
    one, other = torchrun.saw()
    assert one["refused"] == "KeyUnusable"
    assert other["refused"] == "LeaderFailed"
    assert "missing.pem holds no usable public key" in other["why"]
