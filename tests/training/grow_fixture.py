"""A host with its optimizer and seed manager, trained step by step by a test; no service needed."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

import esper
from esper.blueprint import request_for, shipped_named
from esper.kernel import Kernel
from esper.seed import Site
from esper.topics.codec import sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Cause,
    Cull,
    Fossilize,
    Operation,
    Plant,
    PolicyStamp,
    RandomStamp,
    Reweight,
    SiteSignature,
)
from esper.training.optimizer import OptimizerMembership
from esper.training.seed_manager import SeedManager, kernels_needed
from tests.seed.hosts import host, images, labels, sites_of
from tests.seed.kernels import kernel_for

ZEROS = "0" * 64
RUN = "test-run"

Shape = Literal["linear", "cosine"]
MakeOptimizer = Callable[[nn.Module], Optimizer]


FROM_CHECKPOINT = frozenset({"run", "slots", "report_every", "seed"})
"""Arguments of `esper.grow` that `esper.resume` takes from the checkpoint."""


def attach(
    model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any] | None = None, **arguments: Any
) -> esper.Growth:
    """Call `esper.grow`, or `esper.resume` for a state; fields of GrowConfig become its config."""
    fields = esper.GrowConfig.model_fields.keys()
    config = esper.GrowConfig(**{name: arguments.pop(name) for name in fields & arguments.keys()})
    if state is None:
        return esper.grow(model, optimizer, config=config, **arguments)
    kept = {name: value for name, value in arguments.items() if name not in FROM_CHECKPOINT}
    return esper.resume(state, model, optimizer, config=config, **kept)


def adam(model: nn.Module) -> Optimizer:
    """Adam over all parameters."""
    return Adam(model.parameters(), lr=0.01)


def decision(
    *operations: Operation,
    name: str = "first",
    run_id: str = RUN,
    apply_at_step: int = 1,
    strategy: str | None = "diversify",
    seq: int = 0,
) -> AdaptationDecision:
    """A decision to do these operations, in answer to report `seq`; `name` makes its id."""
    return AdaptationDecision(
        decision_id=sha256_of(name.encode()),
        run_id=run_id,
        seq=seq,
        index=0,
        strategy=strategy,
        operations=operations,
        reason="because a test says so",
        apply_at_step=apply_at_step,
        cause=Cause(topic="seed-metrics", partition=0, offset=0, seq=0, sha256=ZEROS),
        policy=PolicyStamp(name="ucb1", version=1, params_sha256=ZEROS),
        candidates=(),
        random=RandomStamp(seed=0, seq=0, purpose="test"),
        state_before_sha256=ZEROS,
        state_after_sha256=ZEROS,
        previous_sha256=None,
    )


def kernel_id(blueprint_id: str, signature: SiteSignature) -> str:
    """The id of a shipped blueprint's kernel at a site."""
    return request_for(shipped_named(blueprint_id), signature).kernel_id


def planting(
    site: Site,
    slot: int,
    blueprint_id: str,
    *,
    alpha: float = 1.0,
    ramp_steps: int = 0,
    ramp: Shape = "linear",
) -> Plant:
    """The operation that plants a shipped blueprint."""
    return Plant(
        site=site.name,
        slot=slot,
        kernel_id=kernel_id(blueprint_id, site.signature),
        blueprint_id=blueprint_id,
        alpha=alpha,
        ramp_steps=ramp_steps,
        ramp=ramp,
    )


class GrowingHost:
    """A small host whose seeds a test plants, trains and removes by decisions."""

    def __init__(self, make_optimizer: MakeOptimizer = adam, slots: int = 3) -> None:
        self.model = host()
        self.optimizer = make_optimizer(self.model)
        self.sites = sites_of(self.model, slots=slots)
        self.seed_manager = SeedManager(self.sites, OptimizerMembership(self.optimizer))
        self.step = 0

    def plant(
        self,
        site: str,
        slot: int,
        blueprint_id: str,
        *,
        alpha: float = 1.0,
        ramp_steps: int = 0,
        ramp: Shape = "linear",
    ) -> Kernel:
        """Plant a fresh kernel through a decision and return it."""
        operation = planting(
            self.sites[site], slot, blueprint_id, alpha=alpha, ramp_steps=ramp_steps, ramp=ramp
        )
        self.apply(decision(operation, name=f"{site}/{slot} at {self.step}"))
        return self.sites[site].seed(slot).kernel

    def cull(self, site: str, slot: int) -> None:
        """Remove a seed through a decision."""
        self.apply(decision(Cull(site=site, slot=slot, kernel_id=self._planted(site, slot))))

    def reweight(self, site: str, slot: int, *, alpha: float, ramp_steps: int) -> None:
        """Give a seed another alpha through a decision."""
        planted = self._planted(site, slot)
        change = Reweight(
            site=site, slot=slot, kernel_id=planted, alpha=alpha, ramp_steps=ramp_steps
        )
        self.apply(decision(change))

    def fossilize(self, site: str, slot: int) -> None:
        """Keep a seed for good through a decision."""
        self.apply(decision(Fossilize(site=site, slot=slot, kernel_id=self._planted(site, slot))))

    def apply(self, plan: AdaptationDecision) -> None:
        """Reserve and apply a plan, with freshly built kernels."""
        self.seed_manager.reserve(plan, self.step)
        self.seed_manager.apply(plan, self.kernels_of(plan), self.step)
        self.seed_manager.ramp(self.step)

    def kernels_of(self, plan: AdaptationDecision) -> dict[str, Kernel]:
        """Fresh kernels for what a plan plants."""
        needed = set(kernels_needed(plan))
        return {
            operation.kernel_id: kernel_for(
                operation.blueprint_id, self.sites[operation.site].signature
            )
            for operation in plan.operations
            if isinstance(operation, Plant) and operation.kernel_id in needed
        }

    def train(self, steps: int = 1) -> None:
        """Take training steps, each on a batch of its own."""
        for _ in range(steps):
            self.step += 1
            torch.manual_seed(self.step)
            loss = F.cross_entropy(
                self.model(images(16, seed=self.step)), labels(16, seed=self.step)
            )
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.seed_manager.ramp(self.step)

    def _planted(self, site: str, slot: int) -> str:
        planted = self.sites[site].slots[slot].planted
        assert planted is not None
        return planted.kernel_id
