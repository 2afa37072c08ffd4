"""Auditions on real services: the kernel that the host lacks is found, planted able, and kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import esper
from esper.audit import audit, fetch_history, with_kernels, write_history
from esper.blueprint import shipped_named
from esper.store import open_store
from esper.tasks import Mnist1dHost, load_mnist1d
from esper.topics.bus import read_topic
from esper.topics.catalog import KERNEL_AUDITIONED
from esper.topics.codec import decode
from esper.topics.models import (
    Auditions,
    KernelAuditioned,
    Orchestration,
    Plant,
    Selection,
    SelectionLimits,
)
from esper.training import Growth
from esper.workers.cli import publish_blueprints
from esper.workers.cli.kernel_copies import copy_kernels
from esper.workers.local import CAN_DIE_WITH_PARENT, KafkaService
from tests.seed.conftest import one_thread
from tests.system.conftest import Running

__all__ = ["one_thread"]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

STEPS = 900
SITES = ("fc1", "fc2")
BLUEPRINTS = (
    "line-conv",
    "image-conv",
    "channel-mixing-mlp",
    "low-rank-skip",
    "gated-linear-unit",
    "dropout-mlp",
    "identity",
)
SELECTION = Selection(
    limits=SelectionLimits(max_on_trial=1, dormant_reports=0),
    warmup_reports=6,
    trial_reports=4,
    # Any 8 losses are a plateau: the test is short.
    orchestration=Orchestration(plateau_reports=4, plateau_share=1.0, plateau_share_stay=1.0),
    auditions=Auditions(rung_steps=(20, 80), finalists=3, settle_reports=1, again_reports=500),
)


@dataclass
class Ended:
    """The results of a run."""

    growth: Growth
    weights: dict[str, Tensor]
    accuracy: float

    @property
    def plants(self) -> list[Plant]:
        return [
            operation
            for decision in self.growth.run_history.decisions
            for operation in decision.operations
            if isinstance(operation, Plant)
        ]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    growth: Growth | None,
    before: Callable[[int], object],
) -> None:
    lines, labels = load_mnist1d().train
    batches = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        before(step)
        batch = torch.randint(len(lines), (100,), generator=batches)
        loss = F.cross_entropy(model(lines[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if growth is not None:
            growth.step(loss)


def host() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Mnist1dHost()
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def accuracy(model: nn.Module) -> float:
    lines, labels = load_mnist1d().test
    with torch.no_grad():
        return float((model.eval()(lines).argmax(1) == labels).float().mean())


def grow(running: Running, before: Callable[[Growth], object] = lambda growth: None) -> Ended:
    """Train in lockstep; `before` is called before every step."""
    model, optimizer = host()
    splits = load_mnist1d()
    with esper.grow(
        model,
        optimizer,
        sites=SITES,
        probe=splits.probe,
        loss_fn=F.cross_entropy,
        audition=splits.audition,
        run="auditions",
        report_every=20,
        config=esper.GrowConfig(settings=running.settings, lockstep=True, selection=SELECTION),
    ) as growth:
        train(model, optimizer, growth, lambda step: before(growth))
    return Ended(growth, model.state_dict(), accuracy(model))


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker without other tests' blueprints; a lockstep run starts with all published ones."""
    return own_kafka


@pytest.fixture(scope="module")
def ended(running: Running) -> Ended:
    start_audition_worker(running)
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    return grow(running)


def start_audition_worker(running: Running) -> None:
    running.stack.start(lambda line: None, audition_workers=1, die_with_parent=CAN_DIE_WITH_PARENT)


def test_the_kernel_that_the_host_lacks_is_planted_and_kept_and_helps(ended: Ended) -> None:
    model, optimizer = host()
    train(model, optimizer, None, lambda step: None)
    first = ended.plants[0]
    assert (first.site, first.blueprint_id) == ("fc1", "line-conv")
    assert ended.accuracy > accuracy(model) + 0.1
    (site,) = [site for site in ended.growth.sites.values() if site.name == "fc1"]
    assert [slot.state.value for slot, _ in site.seeds()] == ["fossilized"]


def test_it_is_planted_with_the_weights_that_its_audition_trained(
    ended: Ended, running: Running
) -> None:
    first = ended.plants[0]
    assert first.trained_sha256 is not None
    with open_store(running.settings.kernel_store_spec) as store:
        assert store.get(f"{first.kernel_id}/{first.trained_sha256}")
    (result,) = [
        found
        for found in results(running, ended.growth.run_id)
        if found.trained_sha256 == first.trained_sha256
    ]
    assert result.rung == 1
    assert result.gain is not None and result.gain > 0.1
    assert result.curve and result.seconds > 0


def test_every_audition_that_was_decided_has_one_result(ended: Ended, running: Running) -> None:
    decided = [
        (audition.site, kernel_id, audition.rung)
        for decision in ended.growth.run_history.decisions
        for audition in decision.auditions
        for kernel_id in audition.kernel_ids
    ]
    found = results(running, ended.growth.run_id)
    assert sorted((one.site, one.kernel_id, one.rung) for one in found) == sorted(decided)
    assert len(decided) >= 2 * len(BLUEPRINTS)
    assert all(one.gain is not None for one in found)


def results(running: Running, run_id: str) -> list[KernelAuditioned]:
    records = read_topic(
        running.settings.kafka_bootstrap_servers, KERNEL_AUDITIONED.name, key=run_id.encode()
    )
    found = {}
    for record in records:
        one = decode(KernelAuditioned, record.value)
        found[one.audition_id] = one
    return [one for one in found.values() if one.run_id == run_id]


def test_the_audit_is_identical(ended: Ended, running: Running) -> None:
    history = fetch_history(running.settings.kafka_bootstrap_servers, ended.growth.run_id)
    assert audit(history).identical


def test_a_replay_from_an_export_plants_the_same_weights(
    ended: Ended, running: Running, tmp_path: Path
) -> None:
    settings = running.settings
    history = with_kernels(
        settings.kafka, fetch_history(settings.kafka_bootstrap_servers, ended.growth.run_id)
    )
    file, kernels = tmp_path / "history.jsonl", tmp_path / "kernels"
    # The announced kernel, and its trained weights.
    assert copy_kernels(settings, history, kernels) == 2 * len(ended.plants)
    write_history(history, file)
    model, optimizer = host()
    recording = esper.read_recording(file, kernels=kernels, settings=settings)
    probe = load_mnist1d().probe
    with esper.replay(
        recording, model, optimizer, sites=SITES, probe=probe, loss_fn=F.cross_entropy
    ) as growth:
        train(model, optimizer, growth, lambda step: None)
    for name, value in model.state_dict().items():
        assert torch.equal(value, ended.weights[name]), name


def test_a_worker_that_is_killed_in_a_rung_changes_nothing(ended: Ended, running: Running) -> None:
    kills: list[int] = []

    def kill_once(growth: Growth) -> None:
        asked = [one for one in growth.run_history.decisions if one.auditions]
        if len(asked) > len(kills):
            kills.append(asked[-1].seq)
            running.stack.kill("audition")
            start_audition_worker(running)

    again = grow(running, kill_once)
    assert len(kills) >= 2
    assert again.plants == ended.plants
    for name, value in again.weights.items():
        assert torch.equal(value, ended.weights[name]), name
