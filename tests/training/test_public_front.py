"""`import esper` gives all that a training script uses, and loads neither torch nor Faust."""

import inspect
import subprocess
import sys

import pytest

import esper
from esper.training import config_table

LOADED = "import sys, esper; print(*sorted({'torch', 'faust', 'redis'} & set(sys.modules)))"


def test_importing_esper_loads_no_torch_and_no_faust() -> None:
    ended = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert (ended.stdout.strip(), ended.returncode) == ("", 0), ended.stderr


@pytest.mark.parametrize("name", esper.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(esper, name)
    assert name in dir(esper)
    if inspect.isclass(value):
        assert value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
        _ = esper.unknown  # type: ignore[attr-defined]


def test_grow_resume_and_replay_take_only_what_can_go_together() -> None:
    kept = {"run", "slots", "report_every", "seed"}
    grow, resume, replay = (
        inspect.signature(function).parameters.keys()
        for function in (esper.grow, esper.resume, esper.replay)
    )
    assert kept | {"config"} <= grow
    assert kept.isdisjoint(resume)
    assert (kept | {"config"}).isdisjoint(replay)


def test_every_field_of_the_config_is_described_in_its_table() -> None:
    table = config_table()
    for name, field in esper.GrowConfig.model_fields.items():
        assert field.description
        assert f"| `{name}` |" in table


def test_policy_selection_limits_and_timeouts_are_written_with_esper_alone() -> None:
    config = esper.GrowConfig(
        policy=esper.PolicySpec(name="ucb1", params={"exploration": 0.5}),
        selection=esper.Selection(
            limits=esper.SelectionLimits(max_on_trial=1),
            priors=esper.Priors(cost_spread=0.05),
            orchestration=esper.Orchestration(),
        ),
        lockstep=esper.LockstepTimeouts(answer_s=1.0),
        governor=esper.GovernorSettings(z=9.0),
        memory=esper.MemorySnapshot(family="digits"),
        settings=esper.Settings(),
    )
    assert config.lockstep_timeouts == esper.LockstepTimeouts(answer_s=1.0)
    assert config.selection != esper.TOURNAMENT
