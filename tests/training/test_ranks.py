"""Two ranks under torchrun grow alike: what one cannot do, none does."""

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
from tests.seed.hosts import host, images
from tests.seed.kernels import announced
from tests.seed.ranks import ROOT
from tests.training.outside import WAIT_S, Outside
from tests.training.plot import decision, planting
from topics.catalog import ADAPTATION_DECISION, KERNEL_READY
from topics.models import AdaptationDecision, Cull, KernelReady, Outcome, OutcomeStatus

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
START_S = 60.0
"""Three processes load torch, on a machine that may never have done so."""

APPLIED, REFUSED = OutcomeStatus.APPLIED, OutcomeStatus.REFUSED
SAME = [["conv", "fc1"], ["conv", "fc1"]]


class Torchrun:
    """Two ranks that run; the test is their bandit and their compile worker."""

    def __init__(self, settings: Settings, outside: Outside, folder: Path) -> None:
        self._settings, self._outside, self._folder = settings, outside, folder
        self._process: subprocess.Popen[str] | None = None

    def start(self, **orders: Any) -> None:
        (self._folder / "orders.json").write_text(
            json.dumps({"sites": SAME, "device": "cpu", **orders})
        )
        environment = self._settings.model_dump(mode="json", by_alias=True, exclude_none=True)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", "2", "-m", "tests.training.two_ranks", str(self._folder)]
        self._process = subprocess.Popen(
            launch,
            cwd=ROOT,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def saw(self) -> list[dict[str, Any]]:
        """Wait for the end, and return what each rank saw."""
        assert self._process is not None
        said, _ = self._process.communicate(timeout=3 * WAIT_S)
        assert self._process.returncode == 0, said
        return [json.loads((self._folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]

    def kill(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def weights(self, rank: int) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = torch.load(
            self._folder / f"rank-{rank}.pt", weights_only=True, map_location="cpu"
        )
        return found

    @property
    def run_id(self) -> str:
        eventually("the run", (self._folder / "run").exists, START_S)
        time.sleep(0.01)
        return (self._folder / "run").read_text()

    def offer(self, ready: KernelReady) -> None:
        """Publish a kernel and wait until it is on offer in the run."""
        self._outside.publish(KERNEL_READY, ready)
        run_id = self.run_id
        eventually("an offer", lambda: ready.kernel_id in self._offered(run_id))

    def decide(self, plan: AdaptationDecision) -> Outcome:
        """Publish a decision and return its outcome."""
        self._outside.publish(ADAPTATION_DECISION, plan)
        found: list[Outcome] = eventually(
            "an outcome",
            lambda: [
                outcome
                for report in self._outside.reports(plan.run_id)
                for outcome in report.outcomes
                if outcome.decision_id == plan.decision_id
            ],
        )
        return found[0]

    def _offered(self, run_id: str) -> set[str]:
        reports = self._outside.reports(run_id)
        return {kernel.kernel_id for report in reports for kernel in report.kernels}


def eventually(what: str, found: Callable[[], Any], limit_s: float = WAIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def torchrun(settings: Settings, outside: Outside, tmp_path: Path) -> Iterator[Torchrun]:
    made = Torchrun(settings, outside, tmp_path)
    yield made
    made.kill()


class Story(NamedTuple):
    """What came of each decision, what each rank saw, and the kernels by their role."""

    outcomes: dict[str, Outcome]
    saw: list[dict[str, Any]]
    kernels: dict[str, KernelReady]
    weights: list[dict[str, torch.Tensor]]


@pytest.mark.parametrize("device", DEVICES)
def test_all_ranks_apply_a_decision_at_one_step_and_abstain_from_what_one_cannot_load(
    torchrun: Torchrun, outside: Outside, device: str
) -> None:
    story = told(torchrun, outside, device)
    outcomes, kernels = story.outcomes, story.kernels

    assert [each.status for each in outcomes.values()] == [
        APPLIED, REFUSED, REFUSED, REFUSED, APPLIED, APPLIED,
    ]  # fmt: skip
    assert outcomes["fails"].reason == "rank 1: no room on this GPU"
    assert outcomes["late"].reason == "rank 1: it has not its kernels in time"
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


def told(torchrun: Torchrun, outside: Outside, device: str) -> Story:
    blueprints = {
        "good": "low-rank-skip",
        "fails": "linear-bottleneck",
        "late": "gated-linear-unit",
        "again": "low-rank-skip-wide",
    }
    site = find_sites(host().to(device), ["fc1"], images(1).to(device), slots=3)["fc1"]
    kernels = {
        name: announced(outside.store, each, site.signature) for name, each in blueprints.items()
    }
    torchrun.start(
        device=device, fails=kernels["fails"].sha256, late=kernels["late"].sha256, answers=6
    )
    run_id = torchrun.run_id
    for ready in kernels.values():
        torchrun.offer(ready)

    def plan(name: str, slot: int) -> AdaptationDecision:
        return decision(planting(site, slot, blueprints[name]), name=name, run_id=run_id)

    none = Cull(site="conv", slot=2, kernel_id=kernels["good"].kernel_id)
    cull = Cull(site="fc1", slot=0, kernel_id=kernels["good"].kernel_id)
    outcomes = {
        "good": torchrun.decide(plan("good", 0)),
        "fails": torchrun.decide(plan("fails", 1)),
        "late": torchrun.decide(plan("late", 1)),
        "impossible": torchrun.decide(decision(none, name="impossible", run_id=run_id)),
        "again": torchrun.decide(plan("again", 1)),
        "cull": torchrun.decide(decision(cull, name="cull", run_id=run_id)),
    }
    return Story(outcomes, torchrun.saw(), kernels, [torchrun.weights(rank) for rank in (0, 1)])


def test_ranks_that_were_given_other_sites_all_refuse_and_say_which(torchrun: Torchrun) -> None:
    torchrun.start(sites=[["conv", "fc1"], ["fc1"]], answers=0)
    for saw in torchrun.saw():
        assert saw["refused"] == "RanksDiffer"
        assert saw["why"].startswith("rank 1 called grow with another model, other sites or other")


def test_where_rank_0_cannot_begin_no_rank_does(
    settings: Settings, outside: Outside, tmp_path: Path
) -> None:
    nowhere = settings.model_copy(update={"trusted_key_file": tmp_path / "missing.pem"})
    torchrun = Torchrun(nowhere, outside, tmp_path)
    torchrun.start(answers=0)
    one, other = torchrun.saw()
    assert one["refused"] == "KeyUnusable"
    assert other["refused"] == "LeaderFailed"
    assert "missing.pem holds no usable public key" in other["why"]
