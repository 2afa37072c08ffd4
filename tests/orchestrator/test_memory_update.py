"""Memory updates of a run: its own trials, at sites that have a signature."""

from dataclasses import replace

from esper.bandit.memory import FamilyMemory, snapshot, with_run
from esper.orchestrator import FoldState, memory_updates
from esper.orchestrator.run import RunContext
from esper.topics.models import MemorySnapshot, RememberedArm
from tests.orchestrator.trained_memory import SIGNATURES, trained_run


def test_each_tried_blueprint_gives_a_memory_update_with_its_own_trials() -> None:
    state = trained_run("digits").fold_state
    tried = {(arm.kernel.site, arm.kernel.blueprint_id): arm for arm in state.arms if arm.pulls}
    assert len(tried) >= len(SIGNATURES), "the run tried too little for this test"
    assert memory_updates(state) == [
        (SIGNATURES[site], blueprint, arm.pulls, arm.mean)
        for (site, blueprint), arm in tried.items()
    ]


def test_kernels_without_trials_give_no_memory_update() -> None:
    assert memory_updates(trained_run("digits", reports=2).fold_state) == []


def test_a_site_without_a_signature_gives_no_memory_update() -> None:
    state = trained_run("digits").fold_state
    run_config = state.run.run_config.model_copy(update={"sites": {}})
    assert memory_updates(replace(state, run=RunContext("run", run_config))) == []


def test_memory_read_by_a_run_is_not_part_of_its_own_updates() -> None:
    """Otherwise the findings of one run would count again with every later run."""
    earlier = MemorySnapshot(
        family="digits",
        arms=(RememberedArm(signature=SIGNATURES["fc"], blueprint_id="a", weight=20.0, mean=1.0),),
    )
    state = trained_run("digits").fold_state
    run_config = state.run.run_config.model_copy(update={"memory": earlier})
    same = replace(state, run=RunContext("run", run_config))
    assert memory_updates(FoldState.from_bytes(same.to_bytes())) == memory_updates(state)


def test_the_snapshot_of_a_later_run_ranks_the_better_blueprint_higher() -> None:
    memory = with_run(
        FamilyMemory(), memory_updates(trained_run("digits").fold_state), run_id="run", at_ms=0
    )
    known = {
        (arm.signature, arm.blueprint_id): arm.mean for arm in snapshot(memory, SIGNATURES.values())
    }
    for signature in SIGNATURES.values():
        assert known[signature, "b"] > 0.5
        assert known.get((signature, "a"), 0.0) < 0.5
