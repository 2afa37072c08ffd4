"""What a run leaves to later ones: what it tried itself, at sites that others can have too."""

from dataclasses import replace

from esper.bandit.memory import FamilyMemory, snapshot, with_run
from esper.orchestrator import FoldState, memory_updates
from esper.orchestrator.run import RunContext
from esper.topics.models import MemorySnapshot, RememberedArm
from tests.orchestrator.trained_memory import SIGNATURES, taught_run


def test_each_tried_blueprint_gives_a_memory_update_with_its_own_trials() -> None:
    state = taught_run("digits").folded
    tried = {(arm.kernel.site, arm.kernel.blueprint_id): arm for arm in state.arms if arm.pulls}
    assert len(tried) >= len(SIGNATURES), "the run tried too little for this test"
    assert memory_updates(state) == [
        (SIGNATURES[site], blueprint, arm.pulls, arm.mean)
        for (site, blueprint), arm in tried.items()
    ]


def test_what_was_only_on_offer_teaches_nothing() -> None:
    assert memory_updates(taught_run("digits", reports=2).folded) == []


def test_a_site_without_a_signature_teaches_nothing() -> None:
    state = taught_run("digits").folded
    run_config = state.run.run_config.model_copy(update={"sites": {}})
    assert memory_updates(replace(state, run=RunContext("run", run_config))) == []


def test_what_a_run_was_told_by_earlier_ones_is_not_told_on() -> None:
    """Else what one run found would count again with every run after it."""
    told = MemorySnapshot(
        family="digits",
        arms=(RememberedArm(signature=SIGNATURES["fc"], blueprint_id="a", weight=20.0, mean=1.0),),
    )
    state = taught_run("digits").folded
    run_config = state.run.run_config.model_copy(update={"memory": told})
    same = replace(state, run=RunContext("run", run_config))
    assert memory_updates(FoldState.from_bytes(same.to_bytes())) == memory_updates(state)


def test_a_later_run_is_told_which_blueprint_was_good_at_such_sites() -> None:
    memory = with_run(
        FamilyMemory(), memory_updates(taught_run("digits").folded), run_id="run", at_ms=0
    )
    known = {
        (arm.signature, arm.blueprint_id): arm.mean for arm in snapshot(memory, SIGNATURES.values())
    }
    for signature in SIGNATURES.values():
        assert known[signature, "b"] > 0.5
        assert known.get((signature, "a"), 0.0) < 0.5
