"""A real training whose steps a test takes."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from esper.kernel import Kernel
from esper.seed import Site
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from tests.system.conftest import Running
from tests.training.grow_fixture import attach
from tests.waiting import wait_until

T = TypeVar("T")

TIMEOUT_S = 240.0
"""Includes the compilation of kernels on a busy machine."""


class Training:
    """A growing digits host, trained by calls of `step`."""

    def __init__(self, running: Running, seed: int = 0, **arguments: Any) -> None:
        torch.manual_seed(seed)
        self.digits = load_digits()
        self.model = DigitsHost()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.growth = attach(
            self.model,
            self.optimizer,
            sites=DIGITS.sites,
            probe=self.digits.probe,
            loss_fn=F.cross_entropy,
            run="test",
            settings=running.settings,
            **arguments,
        )
        self._batches = torch.Generator().manual_seed(seed)

    def step(self) -> None:
        images, labels = self.digits.train
        batch = torch.randint(len(images), (32,), generator=self._batches)
        loss = F.cross_entropy(self.model(images[batch]), labels[batch])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.growth.step(loss)

    def until_planted(self) -> tuple[Site, Kernel]:
        """Train until a kernel is planted; return its site and the kernel."""
        planted = self.train_until(self._first_planted, "a planted kernel")
        assert planted is not None
        return planted

    def train_until(self, condition: Callable[[], T], what: str) -> T:
        """Take steps until `condition` is true; `what` names the awaited event."""

        def step_and_check() -> T:
            self.step()
            return condition()

        return wait_until(step_and_check, what, TIMEOUT_S, poll_s=0.0)

    def _first_planted(self) -> tuple[Site, Kernel] | None:
        for site in self.growth.sites.values():
            for _, seed in site.seeds():
                return site, seed.kernel
        return None
