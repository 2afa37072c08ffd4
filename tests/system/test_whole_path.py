"""From a published blueprint to a changed forward pass, over the real broker and workers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from esper.audit import audit, fetch_history
from esper.blueprint import shipped
from esper.kernel import Kernel
from esper.store import open_store
from esper.tasks import load_digits
from esper.topics.bus import read_topic
from esper.topics.catalog import KERNEL_COMPILED, KERNEL_READY, SEED_METRICS
from esper.topics.codec import decode, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    CompileStatus,
    KernelCompiled,
    KernelReady,
    OutcomeStatus,
    Plant,
    SeedReport,
)
from esper.workers.cli import publish_blueprints
from esper.workers.cli.demo import compare_in_fresh_interpreter
from tests.system.conftest import Running
from tests.system.training import Training

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def published(running: Running) -> None:
    publish_blueprints(running.settings, shipped())


@pytest.mark.usefixtures("published")
def test_a_decision_from_kafka_changes_the_output_of_the_site(running: Running) -> None:
    training = Training(running)
    with training.growth:
        site, kernel = training.until_planted()
        initial = {name: value.clone() for name, value in kernel.state_dict().items()}
        executed: list[nn.Module] = []
        kernel.register_forward_hook(lambda module, inputs, output: executed.append(module))
        for _ in range(30):
            training.step()

        assert executed, "the executor of the planted kernel never ran in a training step"
        assert any(
            not torch.equal(value, initial[name]) for name, value in kernel.state_dict().items()
        ), "training left every parameter of the kernel as it was born"

        x = torch.randn(5, *site.signature.x)
        with torch.no_grad():
            h = type(site.layer).forward(site.layer, x)
            y = h
            for _, seed in site.seeds():
                y = y + seed.alpha * seed.kernel(x, h)
            assert torch.equal(site.layer(x), y)
            assert not torch.equal(y, h)

        outcomes = training.growth.run_history.outcomes.values()
        assert any(outcome.status is OutcomeStatus.APPLIED for outcome in outcomes)
    _assert_same_bytes(running, kernel)
    assert training.growth.run_history.sealed
    history = fetch_history(running.settings.kafka_bootstrap_servers, training.growth.run_id)
    verdict = audit(history)
    assert verdict.finding is None
    assert verdict.closed
    recorded = [decode(AdaptationDecision, record.value) for record in history.decisions]
    assert verdict.decisions == len(recorded)
    # Decisions without operations are not part of the lineage, except the last one.
    with_operations = [entry for entry in recorded[:-1] if entry.operations]
    assert training.growth.run_history.decisions == [*with_operations, recorded[-1]]


STEPS = {"delivery", "compile-queue", "compile", "validate-queue", "validate", "sign", "store"}


def _assert_same_bytes(running: Running, kernel: Kernel) -> None:
    """Check by SHA-256 that the running kernel is the validated, published and stored one."""
    key = kernel.kernel_id.encode()
    servers = running.settings.kafka_bootstrap_servers
    compiled = decode(KernelCompiled, read_topic(servers, KERNEL_COMPILED.name, key=key)[-1].value)
    ready = decode(KernelReady, read_topic(servers, KERNEL_READY.name, key=key)[-1].value)
    stored = open_store(running.settings.kernel_store_spec).get(ready.location)
    assert compiled.status is CompileStatus.READY
    assert kernel.sha256 == compiled.sha256 == ready.sha256 == sha256_of(stored)
    assert compiled.timings_ms.keys() >= STEPS
    assert ready.cost is not None
    assert compiled.characterisation is not None
    assert ready.cost.flops == compiled.characterisation.flops


@pytest.mark.usefixtures("published")
def test_a_grown_network_is_exported_and_runs_without_esper(
    running: Running, tmp_path: Path
) -> None:
    training = Training(running, seed=1)
    with training.growth:
        _, kernel = training.until_planted()
        for _ in range(20):
            training.step()
    folder = training.growth.export(tmp_path / "grown")
    comparison = compare_in_fresh_interpreter(folder, training.model, load_digits().test[0])
    assert comparison.equal, comparison
    assert kernel.sha256 in (folder / "lineage.json").read_text()


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("given", [True, False])
def test_a_run_has_auditions_by_default_if_it_has_samples_for_them(
    running: Running, given: bool
) -> None:
    training = Training(running, audition=load_digits().train if given else None)
    with training.growth:
        training.step()
    first = read_topic(
        running.settings.kafka_bootstrap_servers,
        SEED_METRICS.name,
        key=training.growth.run_id.encode(),
    )[0]
    run_config = decode(SeedReport, first.value).run_config
    assert run_config is not None and run_config.selection is not None
    assert (run_config.selection.auditions is not None) == given


@pytest.mark.usefixtures("published")
def test_decisions_name_kernels_of_the_sites_own_signature(running: Running) -> None:
    training = Training(running, seed=2)
    with training.growth as growth:
        training.until_planted()
        kernels = growth.run_history.kernels
        for decision in growth.run_history.decisions:
            for operation in decision.operations:
                if isinstance(operation, Plant):
                    site = growth.sites[operation.site]
                    assert kernels[operation.kernel_id].site_signature == site.signature
