"""Baselines of a grown network: equal parameters, equal initial weights, equal batches."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.result import BenchmarkError
from esper.tasks import CHARLM, CharacterHost, DigitsHost, Task
from esper.tasks.charlm import CHARACTERS, CONTEXT
from esper.tasks.digits import DIGITS, load_digits
from esper.tasks.train import no_growth
from experiments.growth import charlm, digits
from experiments.growth.adapters import Adapted, adapter_costs, ranks_for, with_adapters
from experiments.growth.baselines import TIME_MATCHED, BaselineComparison
from experiments.growth.gromo_baseline import Schedule, grow_with_gromo
from experiments.growth.rows import Case, RunRow
from experiments.growth.suite import Suite
from experiments.growth.training import train_run
from tests.seed.conftest import one_thread

__all__ = ["one_thread"]

BEGINNING = {
    "digits": (DIGITS, torch.rand(5, 1, 8, 8)),
    "charlm": (CHARLM, torch.randint(CHARACTERS, (2, CONTEXT))),
}


def params(model: nn.Module) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def host(task: Task, seed: int = 0) -> nn.Module:
    """Return the host of a task with a seed."""
    torch.manual_seed(seed)
    return task.host().eval()


def grown(task: str, **fields: object) -> RunRow:
    """Return the row of a grown run."""
    values = {"params": 1000, "train_s": 1.0, "probe_s": 0.5, "wait_s": 0.5, "compile_s": 0.0}
    case = Case(task, task, "esper", 0)
    return RunRow.model_validate({**case._asdict(), "commit": "", **values, **fields})


@pytest.mark.parametrize(("task", "inputs"), BEGINNING.values(), ids=BEGINNING)
def test_fresh_adapters_are_an_exact_no_op(task: Task, inputs: Tensor) -> None:
    plain = host(task)
    adapted = with_adapters(host(task), dict.fromkeys(task.sites, 2), inputs[:1])
    assert isinstance(adapted.get_submodule(task.sites[0]), Adapted)
    with torch.no_grad():
        assert torch.equal(adapted(inputs), plain(inputs))


@pytest.mark.parametrize(("task", "inputs"), BEGINNING.values(), ids=BEGINNING)
def test_fresh_adapters_learn_from_the_first_step(task: Task, inputs: Tensor) -> None:
    adapted = with_adapters(host(task), dict.fromkeys(task.sites, 1), inputs[:1])
    adapted(inputs).square().mean().backward()
    for site in task.sites:
        up = adapted.get_submodule(f"{site}.up.weight".rpartition(".")[0]).weight
        assert up.grad is not None
        assert up.grad.abs().sum() > 0


@pytest.mark.parametrize(("task", "inputs"), BEGINNING.values(), ids=BEGINNING)
@pytest.mark.parametrize("more", [0, 100, 640, 5000])
def test_adapters_have_the_requested_number_of_parameters(
    task: Task, inputs: Tensor, more: int
) -> None:
    plain = host(task)
    costs = adapter_costs(plain, task.sites, inputs[:1])
    adapted = with_adapters(host(task), ranks_for(costs, more), inputs[:1])
    assert abs(params(adapted) - params(plain) - more) <= max(costs.values()) / 2


def test_zero_parameters_give_rank_zero_everywhere() -> None:
    assert ranks_for({"conv1": 13, "fc1": 44}, 0) == {"conv1": 0, "fc1": 0}


@pytest.mark.parametrize("wanted", [862, 1200, 1500, 2400, 4000])
def test_widened_digits_host_has_the_requested_parameters(wanted: int) -> None:
    assert abs(params(digits.wide(wanted)) - wanted) <= 0.015 * wanted


@pytest.mark.parametrize("wanted", [120_704, 131_000, 170_000])
def test_widened_transformer_has_the_requested_parameters(wanted: int) -> None:
    assert abs(params(charlm.wide(wanted)) - wanted) <= 0.005 * wanted


def test_host_widened_to_its_own_parameters_is_unchanged() -> None:
    plain = host(DIGITS)
    torch.manual_seed(0)
    wide = digits.wide(params(plain))
    assert all(
        torch.equal(*pair) for pair in zip(wide.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("counted", "sizes", "made"),
    [
        (digits.params_of, (5, 9, 14), DigitsHost),
        (charlm.params_of, (68, 260), CharacterHost),
    ],
)
def test_parameter_formula_matches_the_model(
    counted: Callable[..., int], sizes: tuple[int, ...], made: Callable[..., nn.Module]
) -> None:
    assert counted(*sizes) == params(made(*sizes))


@pytest.mark.filterwarnings("ignore::UserWarning:gromo")
@pytest.mark.parametrize("normalised", [False, True])
def test_gromo_network_grows_to_the_requested_parameters(
    one_thread: None, normalised: bool
) -> None:
    inputs, labels = load_digits().train
    schedule = Schedule(learning_rate=1e-2, start=0.25, rounds=2, share=0.7, normalised=normalised)
    ended = grow_with_gromo((inputs[:100], labels[:100]), 0, 4, 32, 1400, schedule)
    assert abs(params(ended.model) - 1400) <= 28
    assert ended.steps == 4 * 4


def test_training_with_a_time_limit_ends_before_its_epochs() -> None:
    ended = train_run(DIGITS, 0, epochs=1000, grows=no_growth, time_limit_s=0.3)
    assert 0 < ended.steps < 1000 * 36


@pytest.mark.parametrize("control", ["wide", "adapters", *digits.SCHEDULES])
def test_baseline_without_its_grown_run_is_an_error(control: str) -> None:
    with pytest.raises(BenchmarkError, match="the grown run is missing"):
        digits.COMPARISON.run(Case("digits", "digits", control, 0), None)


def test_baselines_have_the_parameters_of_the_grown_run_of_their_seed() -> None:
    short = BaselineComparison(replace(digits.TASK, epochs=1), digits.wide)
    for control in ("wide", "adapters"):
        row = short.run(Case("digits", "digits", control, 3), grown("digits", params=1300))
        assert row.params is not None
        assert abs(row.params - 1300) <= 22


@pytest.mark.parametrize("suite", [digits.SUITE, charlm.SUITE], ids=lambda suite: suite.name)
def test_baselines_can_be_pickled_for_other_processes(suite: Suite) -> None:
    assert pickle.loads(pickle.dumps(suite.run)) is not None


def test_time_matched_baselines_run_right_after_their_grown_run() -> None:
    cases = list(charlm.SUITE.cases("charlm", 2))
    controls = [case.control for case in cases if charlm.SUITE.is_live(case)]
    assert controls == ["esper", *TIME_MATCHED] * 2
