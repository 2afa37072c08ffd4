"""The private torch module warns once on a torch release on which the suite did not run."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.seed.private_torch import (
    NOT_IN_BACKWARD,
    TESTED_TORCH,
    current_graph_task_id,
    has_hooks,
    saves_tensors_through_hooks,
    sees_single_operations,
    warn_if_untested,
)

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"torch(?:\.\w+)*\._(?!_)|_execution_engine|from torch(?:\.\w+)*\._")


@pytest.mark.parametrize("found", ["2.11.0", "2.15.1+cpu", "2.15.0a0+git1234567"])
def test_a_tested_release_gives_no_warning(found: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "esper"):
        warn_if_untested(found)
    assert not caplog.records


@pytest.mark.parametrize("found", ["2.10.0", "2.16.0+cu130", "2.1.5", "3.0.0"])
def test_an_untested_release_gives_one_warning_with_the_tested_ones(
    found: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "esper"):
        warn_if_untested(found)
    (record,) = caplog.records
    assert found in record.message
    assert all(release in record.message for release in TESTED_TORCH)


def test_the_pinned_release_is_a_tested_one(caplog: pytest.LogCaptureFixture) -> None:
    pins = (ROOT / "constraints.txt").read_text()
    (pinned,) = re.findall(r"^torch==(\S+)$", pins, re.MULTILINE)
    with caplog.at_level(logging.WARNING, "esper"):
        warn_if_untested(pinned)
    assert not caplog.records


def test_no_other_module_of_esper_uses_private_torch() -> None:
    # PyTorch documents `torch.utils._python_dispatch` as the place of `TorchDispatchMode`.
    dispatch_mode = "esper/compiler/measure.py"
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "esper").rglob("*.py")
        if PRIVATE.search(path.read_text())
    }
    assert users - {dispatch_mode} == {"esper/seed/private_torch.py"}


def test_outside_of_a_pass_nothing_is_active() -> None:
    assert current_graph_task_id() == NOT_IN_BACKWARD
    assert not saves_tensors_through_hooks()
    assert not sees_single_operations()
    assert not has_hooks(nn.Identity())


def test_a_backward_pass_has_an_id() -> None:
    ids: list[int] = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda _: ids.append(current_graph_task_id()))
    x.sum().backward()
    assert ids != [NOT_IN_BACKWARD]
    assert len(ids) == 1
