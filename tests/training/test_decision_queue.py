"""From decisions to a changed model: real kernels, loader and store, without a broker."""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.kernel import Kernel, KernelLoader, KernelRefused, KernelsPrepared, load_kernel
from esper.store import open_store
from esper.topics.codec import sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    DecisionOutcome,
    Fossilize,
    KernelReady,
    Operation,
    OutcomeStatus,
    PolicySpec,
    RequestKind,
    RunConfig,
    RunRequest,
    SeedReport,
    SeedState,
)
from esper.training.decision_queue import DecisionQueue
from esper.training.probe import ProbeResult
from esper.training.reporter import Reporter
from esper.training.seed_manager import kernels_needed
from tests.keys import TRUSTED
from tests.seed.hosts import images
from tests.seed.kernels import announced
from tests.training.grow_fixture import RUN, ZEROS, GrowingHost, decision, kernel_id, planting

S = SeedState
WAIT_S = 60.0


class Trainer:
    """A trained host with a decision queue, a kernel store and a loader."""

    def __init__(self, folder: Path, cache_bytes: int = 1 << 20) -> None:
        self.growing = GrowingHost()
        self.folder = folder
        self.store = open_store(f"file:{folder}")
        run_config = RunConfig(
            seed=0,
            slots={"conv": 3, "fc1": 3},
            policy=PolicySpec(),
            host_params=0,
            report_interval_steps=20,
        )
        self._reporter = Reporter(RUN, run_config)
        self.decision_queue = DecisionQueue(self.growing.seed_manager, self._reporter)
        self.loader = KernelLoader(
            self.store,
            TRUSTED,
            self.decision_queue.mailbox.append,
            lambda ready, data: load_kernel(data, ready.sha256),
            cache_bytes=cache_bytes,
            retry_delays_s=(0.01, 0.01),
        )

    def offer(self, site: str, blueprint_id: str) -> KernelReady:
        """Publish a kernel for a site and process its announcement."""
        ready = announced(self.store, blueprint_id, self.growing.sites[site].signature)
        self.loader.verify(ready)
        self.wait_for(lambda: bool(self.decision_queue.mailbox))
        self.take()
        return ready

    def on_frame(self, plan: AdaptationDecision) -> None:
        """Queue a decision and prepare its kernels, as the link does."""
        self.decision_queue.on_decision(plan, int(time.time() * 1000))
        if needed := kernels_needed(plan):
            self.loader.prepare(plan.decision_id, needed)

    def hear_and_apply(self, plan: AdaptationDecision) -> DecisionOutcome:
        """Queue a decision and train until it has an outcome; return the outcome."""
        self.on_frame(plan)
        self.wait_for(
            lambda: plan.decision_id in self.decision_queue.run_history.outcomes, self.train
        )
        return self.decision_queue.run_history.outcomes[plan.decision_id]

    def take(self) -> None:
        self.decision_queue.process(self.growing.step)
        self.growing.seed_manager.ramp(self.growing.step)

    def train(self) -> None:
        """Take one training step, then process the queue."""
        self.growing.train()
        self.take()

    def report(self, *, closing: bool = False) -> SeedReport:
        return self._reporter.next(
            self.growing.sites,
            ProbeResult(None, {}),
            step=self.growing.step,
            train_loss=None,
            closing=closing,
        )

    def state(self, site: str, slot: int) -> SeedState:
        return self.growing.sites[site].slots[slot].state

    def wait_for(
        self, condition: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            meanwhile()
            time.sleep(0.002)

    def artifact(self, ready: KernelReady) -> Path:
        """Return the file of a kernel in the store."""
        return next((self.folder / ready.kernel_id).iterdir())


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    opened = Trainer(tmp_path / "kernels")
    yield opened
    opened.loader.close()


def plan_for(
    trainer: Trainer,
    *places: tuple[str, int, str],
    name: str = "plan",
    culls: tuple[Operation, ...] = (),
    apply_at_step: int = 1,
) -> AdaptationDecision:
    """Return a decision that plants blueprints at (site, slot)."""
    plants = [planting(trainer.growing.sites[site], slot, what) for site, slot, what in places]
    return decision(*plants, *culls, name=name, apply_at_step=apply_at_step)


def test_after_a_decision_the_published_bytes_run_train_and_change_the_output_by_alpha_k(
    trainer: Trainer,
) -> None:
    """The full path from the bytes of a kernel to a changed forward pass."""
    ready = trainer.offer("fc1", "linear-bottleneck")
    assert (
        trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "linear-bottleneck"))).status
        is OutcomeStatus.APPLIED
    )
    site = trainer.growing.sites["fc1"]
    seed = site.seed(0)
    born = copy.deepcopy(seed.kernel.state_dict())
    runs = count_runs(seed.kernel)
    for _ in range(3):
        trainer.train()
    assert len(runs) == 3

    assert all(
        not torch.equal(value, born[name]) for name, value in seed.kernel.state_dict().items()
    )
    x = torch.randn(4, 8)
    with torch.no_grad():
        h = torch.nn.functional.linear(x, site.layer.weight, site.layer.bias)
        added = seed.alpha * seed.kernel(x, h)
        assert added.any()
        assert torch.equal(site.layer(x), h + added)
    assert seed.kernel.sha256 == ready.sha256
    assert sha256_of(trainer.artifact(ready).read_bytes()) == ready.sha256


def count_runs(kernel: Kernel) -> list[Tensor]:
    runs: list[Tensor] = []
    kernel.register_forward_hook(lambda module, inputs, output: runs.append(output))
    return runs


def test_the_model_computes_the_same_at_the_step_of_planting(trainer: Trainer) -> None:
    trainer.offer("conv", "conv-bottleneck")
    trainer.train()
    before = trainer.growing.model(images())
    plan = plan_for(trainer, ("conv", 0, "conv-bottleneck"))
    trainer.on_frame(plan)
    trainer.wait_for(lambda: trainer.state("conv", 0) is S.ACTIVE, trainer.take)
    assert torch.equal(trainer.growing.model(images()), before)


def test_a_kernel_is_offered_once_for_every_site_that_it_fits(trainer: Trainer) -> None:
    first = trainer.offer("fc1", "low-rank-skip")
    trainer.loader.verify(first)
    # The loader works in order: once this one is offered, the repetition is behind it.
    second = trainer.offer("conv", "residual-conv3x3")
    reported = [(kernel.site, kernel.kernel_id) for kernel in trainer.report().kernels]
    assert reported == [("conv", second.kernel_id), ("fc1", first.kernel_id)]


def test_a_loadable_kernel_is_reported_with_its_cost(trainer: Trainer) -> None:
    ready = trainer.offer("fc1", "linear-bottleneck")
    (loadable,) = trainer.report().kernels
    assert ready.cost is not None
    assert loadable.cost == ready.cost


def test_nothing_changes_before_the_training_thread_processes_the_queue(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    trainer.on_frame(plan_for(trainer, ("fc1", 0, "low-rank-skip")))
    trainer.wait_for(lambda: len(trainer.decision_queue.mailbox) == 2)
    assert trainer.state("fc1", 0) is S.DORMANT
    assert trainer.growing.sites["fc1"].bank is None


def test_a_seed_is_loading_until_its_kernel_is_built(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    trainer.train()
    trainer.on_frame(plan_for(trainer, ("fc1", 0, "low-rank-skip")))
    arrived = trainer.decision_queue.mailbox.popleft()
    trainer.wait_for(lambda: bool(trainer.decision_queue.mailbox))
    prepared = trainer.decision_queue.mailbox.popleft()
    trainer.decision_queue.mailbox.append(arrived)
    trainer.take()
    assert trainer.state("fc1", 0) is S.LOADING
    trainer.decision_queue.mailbox.append(prepared)
    trainer.take()
    assert trainer.state("fc1", 0) is S.ACTIVE


def test_a_decision_is_applied_at_its_step(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    trainer.on_frame(plan_for(trainer, ("fc1", 0, "low-rank-skip"), apply_at_step=7))
    trainer.wait_for(lambda: len(trainer.decision_queue.mailbox) == 2)
    states = []
    for _ in range(8):
        trainer.train()
        states.append(trainer.state("fc1", 0))
    assert states == [S.LOADING] * 6 + [S.ACTIVE] * 2


def test_a_duplicate_decision_is_applied_once(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    plan = plan_for(trainer, ("fc1", 0, "low-rank-skip"))
    trainer.hear_and_apply(plan)
    trainer.on_frame(plan)
    trainer.train()
    report = trainer.report()
    assert [outcome.status for outcome in report.outcomes] == [OutcomeStatus.APPLIED]
    assert trainer.decision_queue.run_history.decisions == [plan]


def test_decisions_are_applied_in_order_of_arrival(trainer: Trainer) -> None:
    """The second is ready immediately; it waits for the first, whose kernels are being built."""
    trainer.offer("fc1", "linear-bottleneck")
    trainer.offer("conv", "squeeze-excite")
    trainer.hear_and_apply(plan_for(trainer, ("conv", 0, "squeeze-excite"), name="before"))
    first = plan_for(trainer, ("fc1", 0, "linear-bottleneck"), name="first")
    cull = Cull(
        site="conv",
        slot=0,
        kernel_id=kernel_id("squeeze-excite", trainer.growing.sites["conv"].signature),
    )
    second = plan_for(trainer, name="second", culls=(cull,))
    trainer.on_frame(first)
    trainer.on_frame(second)
    trainer.wait_for(lambda: len(trainer.decision_queue.mailbox) == 3)
    (prepared,) = (
        decoder
        for decoder in trainer.decision_queue.mailbox
        if isinstance(decoder, KernelsPrepared)
    )
    trainer.decision_queue.mailbox.remove(prepared)
    trainer.train()
    assert trainer.state("conv", 0) is S.ACTIVE
    trainer.decision_queue.mailbox.append(prepared)
    trainer.train()
    assert (trainer.state("conv", 0), trainer.state("fc1", 0)) == (S.CULLED, S.ACTIVE)
    outcomes = list(trainer.decision_queue.run_history.outcomes)
    assert outcomes[-2:] == [first.decision_id, second.decision_id]


def test_a_refused_plan_is_answered_with_the_reason_and_changes_nothing(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    impossible = Cull(site="conv", slot=0, kernel_id=ZEROS)
    outcome = trainer.hear_and_apply(
        plan_for(trainer, ("fc1", 0, "low-rank-skip"), culls=(impossible,))
    )
    assert outcome.status is OutcomeStatus.REFUSED
    assert (
        outcome.reason == "seed conv/0 is dormant and cannot become culled; it may become loading"
    )
    assert trainer.state("fc1", 0) is S.DORMANT
    assert trainer.report().outcomes == (outcome,)


def test_a_plan_with_an_unknown_kernel_is_refused_and_its_seed_is_dormant(
    trainer: Trainer,
) -> None:
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "low-rank-skip")))
    assert outcome.status is OutcomeStatus.REFUSED
    assert "was not verified by this loader" in (outcome.reason or "")
    assert trainer.state("fc1", 0) is S.DORMANT
    assert not trainer.decision_queue.queue


def test_a_refused_plan_does_not_delay_the_next_plan(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    trainer.on_frame(plan_for(trainer, ("fc1", 0, "gated-linear-unit"), name="unknown kernel"))
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 1, "low-rank-skip"), name="next"))
    assert outcome.status is OutcomeStatus.APPLIED


def test_a_kernel_altered_by_one_byte_in_the_store_is_refused_reported_and_never_runs(
    trainer: Trainer,
) -> None:
    signature = trainer.growing.sites["fc1"].signature
    ready = announced(trainer.store, "linear-bottleneck", signature)
    data = bytearray(trainer.artifact(ready).read_bytes())
    data[-3] ^= 1
    trainer.artifact(ready).write_bytes(data)
    trainer.loader.verify(ready)
    trainer.wait_for(lambda: bool(trainer.decision_queue.mailbox))
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "linear-bottleneck")))
    report = trainer.report()
    assert [refusal.kernel_id for refusal in report.refusals] == [ready.kernel_id]
    assert "the bytes changed after validation" in report.refusals[0].reason
    assert report.kernels == ()
    assert outcome.status is OutcomeStatus.REFUSED
    assert trainer.growing.sites["fc1"].bank is None
    assert trainer.report().refusals == ()


def test_a_kernel_altered_after_it_was_verified_is_not_planted_from_the_store(
    tmp_path: Path,
) -> None:
    """Without a cache, planting fetches and verifies the bytes again."""
    trainer = Trainer(tmp_path / "kernels", cache_bytes=0)
    ready = trainer.offer("fc1", "linear-bottleneck")
    data = bytearray(trainer.artifact(ready).read_bytes())
    data[-3] ^= 1
    trainer.artifact(ready).write_bytes(data)
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "linear-bottleneck")))
    trainer.loader.close()
    assert outcome.status is OutcomeStatus.REFUSED
    assert "the bytes changed after validation" in (outcome.reason or "")
    assert trainer.state("fc1", 0) is S.DORMANT


def test_cached_bytes_are_planted_while_the_store_is_unreachable(
    trainer: Trainer,
) -> None:
    ready = trainer.offer("fc1", "linear-bottleneck")
    trainer.artifact(ready).unlink()
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "linear-bottleneck")))
    assert outcome.status is OutcomeStatus.APPLIED


def test_without_cached_bytes_an_unreachable_store_refuses_the_plan(
    tmp_path: Path,
) -> None:
    trainer = Trainer(tmp_path / "kernels", cache_bytes=0)
    ready = trainer.offer("fc1", "linear-bottleneck")
    trainer.artifact(ready).unlink()
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "linear-bottleneck")))
    trainer.loader.close()
    assert outcome.status is OutcomeStatus.REFUSED
    assert "no kernel at" in (outcome.reason or "")


def test_two_plantings_of_one_kernel_share_no_weights(
    trainer: Trainer,
) -> None:
    trainer.offer("fc1", "low-rank-skip")
    for slot in (0, 1):
        trainer.hear_and_apply(plan_for(trainer, ("fc1", slot, "low-rank-skip"), name=str(slot)))
    pointers = {
        parameter.data_ptr()
        for _, seed in trainer.growing.sites["fc1"].seeds()
        for parameter in seed.parameters()
    }
    assert len(pointers) == 4


def test_an_outcome_has_the_latency_of_the_decision(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    outcome = trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, "low-rank-skip")))
    assert outcome.latency_ms is not None
    assert 0 <= outcome.latency_ms < WAIT_S * 1000
    assert outcome.step == trainer.growing.step


def test_decisions_after_the_last_step_are_recorded_and_not_applied(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    plan = plan_for(trainer, ("fc1", 0, "low-rank-skip"))
    trainer.report()
    closing = trainer.report(closing=True)
    seal = decision(name="seal", strategy=None, seq=closing.seq)
    trainer.on_frame(plan)
    trainer.decision_queue.take_seal()
    assert not trainer.decision_queue.run_history.sealed
    trainer.on_frame(seal)
    trainer.decision_queue.take_seal()
    assert trainer.decision_queue.run_history.sealed
    assert trainer.decision_queue.run_history.decisions == [plan, seal]
    assert trainer.state("fc1", 0) is S.DORMANT


def test_the_end_of_an_answer_is_recorded_but_is_no_seal_and_not_in_the_lineage(
    trainer: Trainer,
) -> None:
    trainer.report()
    trainer.report(closing=True)
    assert trainer.decision_queue.answered_seq == -1
    trainer.on_frame(decision(name="the whole answer to report 0", strategy=None, seq=0))
    trainer.decision_queue.take_seal()
    assert trainer.decision_queue.answered_seq == 0
    assert not trainer.decision_queue.run_history.sealed
    assert trainer.decision_queue.run_history.decisions == []


def test_the_answer_to_a_request_does_not_end_an_answer_and_is_not_in_the_lineage(
    trainer: Trainer,
) -> None:
    answer = decision(strategy=None, seq=4).model_copy(update={"request_id": ZEROS})
    trainer.on_frame(answer)
    trainer.take()
    assert trainer.decision_queue.answered_seq == -1
    assert trainer.decision_queue.run_history.decisions == []


@pytest.mark.parametrize("kind", [RequestKind.PAUSE, RequestKind.CULL])
def test_a_duplicate_request_is_reported_once(trainer: Trainer, kind: RequestKind) -> None:
    site = "conv" if kind is RequestKind.CULL else None
    request = RunRequest(request_id=ZEROS, run_id=RUN, kind=kind, site=site)
    requests = []
    for _ in range(2):
        trainer.decision_queue.mailbox += [request, request]
        trainer.take()
        report = trainer.report()
        requests += report.requests
        assert report.paused == (kind is RequestKind.PAUSE)
    assert requests == [request]


def test_accepting_decisions_reserves_slots_and_plants_nothing(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    trainer.on_frame(plan_for(trainer, ("fc1", 0, "low-rank-skip"), apply_at_step=1))
    trainer.wait_for(lambda: len(trainer.decision_queue.mailbox) == 2)
    trainer.decision_queue.empty_mailbox(5)
    assert trainer.state("fc1", 0) is S.LOADING
    trainer.decision_queue.process(5)
    assert trainer.state("fc1", 0) is S.BLENDING


def test_a_decision_without_operations_needs_no_answer(trainer: Trainer) -> None:
    trainer.on_frame(decision(name="nothing"))
    trainer.take()
    assert trainer.report().outcomes == ()
    assert not trainer.decision_queue.queue


def test_the_last_contribution_of_a_planting_is_recorded(trainer: Trainer) -> None:
    trainer.offer("fc1", "low-rank-skip")
    plan = plan_for(trainer, ("fc1", 0, "low-rank-skip"))
    trainer.hear_and_apply(plan)
    for contribution in (0.1, 0.2):
        trainer.decision_queue.note_contributions(ProbeResult(1.0, {("fc1", 0): contribution}))
    (life,) = trainer.decision_queue.run_history.seed_records()
    assert life.contribution == 0.2


@pytest.mark.parametrize(
    ("blueprint_id", "fate"), [("low-rank-skip", "merged"), ("linear-bottleneck", "kept")]
)
def test_the_record_of_a_seed_states_whether_it_was_merged(
    trainer: Trainer, blueprint_id: str, fate: str
) -> None:
    ready = trainer.offer("fc1", blueprint_id)
    trainer.hear_and_apply(plan_for(trainer, ("fc1", 0, blueprint_id)))
    keep = Fossilize(site="fc1", slot=0, kernel_id=ready.kernel_id)
    outcome = trainer.hear_and_apply(decision(keep, name="keep"))
    (life,) = trainer.decision_queue.run_history.seed_records()
    assert life.fate == f"{fate} at {outcome.step}"


def test_a_step_reads_messages_for_a_limited_time_and_later_steps_the_rest(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of announcements at once would hold up one step for seconds."""
    monkeypatch.setattr("esper.training.decision_queue.MAIL_LIMIT_S", 0.0)
    refused = [KernelRefused(f"{number:064x}", "why") for number in range(5)]
    trainer.decision_queue.mailbox.extend(refused)
    left = []
    while trainer.decision_queue.has_work:
        trainer.take()
        left.append(len(trainer.decision_queue.mailbox))
    assert left == [4, 3, 2, 1, 0]
