"""Nobody but the run's bandit worker changes a run: strangers' records on a real broker."""

from collections.abc import Callable

import pytest

import esper
from esper.kernel import UNSIGNED, sign_revocation
from esper.settings import Settings
from esper.signing import Purpose
from esper.topics.catalog import ADAPTATION_DECISION, KERNEL_READY, KERNEL_REVOKED
from esper.topics.codec import SIGNATURE_HEADER, encode
from esper.topics.models import AdaptationDecision, Cull, KernelReady
from esper.workers.local import KafkaService
from tests.keys import KEY
from tests.seed.kernels import announced
from tests.training.fake_workers import SIGN, WAIT_S, Outside
from tests.training.grow_fixture import ZEROS, decision, planting
from tests.training.test_growth import Run, no_threads_left, warnings_in

__all__ = ["no_threads_left"]

FLOOD = 1_000


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """Return a broker of this module: a revocation would hold for the kernels of all others."""
    return own_kafka


def offered(run: Run, outside: Outside) -> KernelReady:
    """Announce a kernel for fc1, and train until it is loadable."""
    ready = announced(outside.store, "low-rank-skip", run.growth.sites["fc1"].signature)
    outside.publish(KERNEL_READY, ready)
    run.train_until(lambda: ready.kernel_id in run.growth.run_history.kernels)
    return ready


def planted(run: Run) -> Callable[[], object]:
    return lambda: list(run.growth.sites["fc1"].seeds())


def refused(run: Run, count: int) -> Callable[[], bool]:
    return lambda: run.growth.status.refused_decisions == count


def reported_refusals(run: Run, outside: Outside) -> int:
    return sum(report.refused_decisions for report in outside.reports(run.growth.run_id))


def genuine(run: Run, outside: Outside) -> AdaptationDecision:
    """Return the decision that the bandit worker is about to publish."""
    plan = decision(planting(run.growth.sites["fc1"], 0, "low-rank-skip"), run_id=run.growth.run_id)
    return outside.planned(plan)


def test_forged_decisions_change_nothing_and_are_reported(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """Unsigned, signed for another purpose, of another run, with a key but no JSON."""
    run = Run(settings)
    with run.growth:
        offered(run, outside)
        real, key = genuine(run, outside), run.growth.run_id.encode()
        for forged in (real, real.model_copy(update={"apply_at_step": 2**62})):
            outside.publish(ADAPTATION_DECISION, forged)
        outside.bus.publish(
            ADAPTATION_DECISION, real, sign=lambda value: KEY.sign(Purpose.ANNOUNCEMENT, value)
        ).result(WAIT_S)
        outside.bus.send(ADAPTATION_DECISION.name, key, b"not JSON").result(WAIT_S)
        run.train_until(refused(run, 4))
        assert not planted(run)()
        assert run.growth.status.state is esper.GrowthState.GROWING
        outside.decide(real)
        run.train_until(planted(run))
        run.train_until(lambda: reported_refusals(run, outside) == 4)
    assert run.growth.run_history.decisions == outside.decided[run.growth.run_id]
    lines = [line for line in warnings_in(caplog) if "decisions refused" in line]
    assert [line.split(" ", 1)[0] for line in lines] == ["1", "2", "4"]
    assert "the signature is not of this adaptation-decision by a trusted key" in lines[0]


def test_a_decision_with_a_valid_signature_for_another_run_is_refused(
    settings: Settings, outside: Outside
) -> None:
    run = Run(settings)
    with run.growth:
        offered(run, outside)
        value = encode(genuine(run, outside).model_copy(update={"run_id": "another-run"}))
        headers = ((SIGNATURE_HEADER, SIGN(value).encode()),)
        key = run.growth.run_id.encode()
        outside.bus.send(ADAPTATION_DECISION.name, key, value, headers).result(WAIT_S)
        run.train_until(refused(run, 1))
        assert not planted(run)()


def test_a_flood_of_forged_decisions_logs_a_few_lines_and_the_real_one_is_applied(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """Each forged decision has the id that the real one will have."""
    run = Run(settings)
    with run.growth:
        offered(run, outside)
        real = genuine(run, outside)
        sends = [
            outside.bus.publish(ADAPTATION_DECISION, forged)
            for forged in [real.model_copy(update={"reason": str(n)}) for n in range(FLOOD)]
        ]
        for sending in sends:
            sending.result(60)
        outside.decide(real)
        run.train_until(planted(run))
        run.train_until(refused(run, FLOOD))
    lines = [line for line in warnings_in(caplog) if "decisions refused" in line]
    assert len(lines) == FLOOD.bit_length()


def test_growth_ends_aloud_after_a_lost_decision(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings)
    with run.growth:
        offered(run, outside)
        real = genuine(run, outside)
        outside.send(real.model_copy(update={"previous_sha256": ZEROS}))
        run.train_until(lambda: run.growth.status.state is esper.GrowthState.FAILED)
        assert "a decision in between was lost" in (run.growth.status.reason or "")
        run.train()
        assert not planted(run)()
    assert any(line.startswith("growth ends: ") for line in warnings_in(caplog))


def test_a_revoked_kernel_is_not_planted_and_a_planted_one_is_named(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings)
    with run.growth:
        ready = offered(run, outside)
        outside.decide(genuine(run, outside))
        run.train_until(planted(run))
        unsigned = sign_revocation(KEY, ready.sha256, "forged").model_copy(
            update={"ed25519_signature": UNSIGNED}
        )
        outside.publish(KERNEL_REVOKED, unsigned)
        outside.publish(KERNEL_REVOKED, sign_revocation(KEY, ready.sha256, "it leaks"))
        run.train_until(lambda: any("was revoked" in line for line in warnings_in(caplog)))
        cull = Cull(site="fc1", slot=0, kernel_id=ready.kernel_id)
        outside.decide(decision(cull, run_id=run.growth.run_id))
        run.train_until(lambda: not planted(run)())
        again = outside.decide(genuine(run, outside))
        outcomes = run.growth.run_history.outcomes
        run.train_until(lambda: again.decision_id in outcomes)
        assert outcomes[again.decision_id].reason == "the kernel was revoked: it leaks"
    lines = warnings_in(caplog)
    assert not any("forged" in line for line in lines)
    assert any(f"esper seed cull {run.growth.run_id} fc1/0" in line for line in lines)
    late = Run(settings)
    with late.growth:
        outside.publish(KERNEL_READY, ready)
        marker = announced(outside.store, "gated-linear-unit", late.growth.sites["fc1"].signature)
        outside.publish(KERNEL_READY, marker)
        late.train_until(lambda: marker.kernel_id in late.growth.run_history.kernels)
        late.train_until(
            lambda: any(report.refusals for report in outside.reports(late.growth.run_id))
        )
        assert ready.kernel_id not in late.growth.run_history.kernels
