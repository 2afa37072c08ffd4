"""Twins: a training whose pipeline is busy and whose decisions are withheld, and the plain loop.

Both begin alike. All that the pipeline does meanwhile, compiling and offering kernels, probing,
reporting, deciding and building what is to be planted, must leave no bit of the training other.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

import esper
from benchmarks.result import BenchmarkError, Figure, Goal, Measurement, figure
from benchmarks.stack import Stack, local_stack
from benchmarks.submissions import Submitter, new_blueprints
from benchmarks.threads import one_thread
from esper.settings import Settings
from esper.tasks.digits import load_digits
from esper.topics.models import OutcomeStatus
from esper.training import Growth

ALIKE: Final = Goal(sense="at most", limit=0, of="worst")
SITES: Final = ("conv2", "fc1")
BATCH: Final = 32
REPORT_EVERY: Final = 10
PATIENCE_S: Final = 120.0


class Workload(NamedTuple):
    """How many pairs of twins, and what the busy one goes through at the least."""

    pairs: int
    steps: int
    decisions: int


FULL: Final = Workload(pairs=5, steps=2000, decisions=20)
QUICK: Final = Workload(pairs=1, steps=100, decisions=2)


class Host(nn.Module):
    """A digits host with all that a stray forward pass or random number would show in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc1, self.fc2 = nn.Linear(32, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for images (B, 1, 8, 8)."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.relu(self.fc1(self.drop(torch.flatten(x, 1))))
        logits: Tensor = self.fc2(self.drop(x))
        return logits


@dataclass
class Twin:
    """A training that its seed alone makes what it is."""

    seed: int
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make model, optimizer and batches, by torch's own random numbers."""
        torch.manual_seed(self.seed)
        self.digits = load_digits()
        self.model = Host()
        self.optimizer = AdamW(self.model.parameters(), lr=3e-3, amsgrad=True)

    def step(self, growth: Growth | None = None) -> None:
        """Train on one batch."""
        images, labels = self.digits.train
        batch = torch.randint(len(images), (BATCH,))
        loss = F.cross_entropy(self.model(images[batch]), labels[batch])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if growth is not None:
            growth.step(loss)
        self.losses.append(float(loss.detach()))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return all that makes it what it is by now, by kind and name."""
        moments = {
            f"{number}.{name}": torch.as_tensor(value)
            for number, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        return {
            "weights": dict(self.model.state_dict()),
            "optimizer": moments,
            "losses": {"losses": torch.tensor(self.losses)},
            "random": {"torch": torch.get_rng_state()},
        }


@dataclass(frozen=True)
class Pair:
    """What the busy twin went through, and how many bytes of each kind differ in the other."""

    steps: int
    kernels: int
    withheld: int
    differing: dict[str, int]


def run(quick: bool = False) -> Measurement:
    """Measure on a stack of its own."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, amount: Workload) -> Measurement:
    """Measure on a running stack."""
    pairs = [pair(stack.settings, seed, amount) for seed in range(1, amount.pairs + 1)]
    return Measurement(
        parameters={**amount._asdict(), "report_every_steps": REPORT_EVERY},
        figures=tuple(_figures(pairs)),
    )


def pair(settings: Settings, seed: int, amount: Workload, **arguments: Any) -> Pair:
    """Train the busy twin, then the plain one for as many steps; `arguments` are of `GrowConfig`."""
    with one_thread():
        return _pair(settings, seed, amount, arguments)


def _pair(settings: Settings, seed: int, amount: Workload, arguments: dict[str, Any]) -> Pair:
    busy = Twin(seed)
    growth = esper.grow(
        busy.model,
        busy.optimizer,
        sites=list(SITES),
        probe=busy.digits.probe,
        loss_fn=F.cross_entropy,
        run="twin",
        report_every=REPORT_EVERY,
        config=esper.GrowConfig(**{"dry_run": True, "settings": settings, **arguments}),
    )
    with growth, _blueprints_coming(settings, growth):
        _train(busy, growth, amount)
        state = busy.state()
    plain = Twin(seed)
    for _ in busy.losses:
        plain.step()
    return Pair(
        steps=len(busy.losses),
        kernels=len(growth.run_history.kernels),
        withheld=_withheld(growth),
        differing=differing(state, plain.state()),
    )


def differing(
    ours: dict[str, dict[str, Tensor]], theirs: dict[str, dict[str, Tensor]]
) -> dict[str, int]:
    """Return how many bytes differ, by kind; a tensor that one lacks differs whole."""
    return {
        kind: sum(
            _bytes_differing(tensors.get(name), theirs[kind].get(name))
            for name in tensors.keys() | theirs[kind].keys()
        )
        for kind, tensors in ours.items()
    }


def _bytes_differing(ours: Tensor | None, theirs: Tensor | None) -> int:
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return max(each.nbytes for each in (ours, theirs) if each is not None)
    ours, theirs = (each.detach().reshape(-1).view(torch.uint8) for each in (ours, theirs))
    return int((ours != theirs).sum())


def _train(twin: Twin, growth: Growth, amount: Workload) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(twin.losses) < amount.steps or _withheld(growth) < amount.decisions:
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{_withheld(growth)} decisions in {PATIENCE_S:g} s, {amount.decisions} are wanted"
            )
        twin.step(growth)


def _withheld(growth: Growth) -> int:
    outcomes = growth.run_history.outcomes.values()
    return sum(outcome.status is OutcomeStatus.WITHHELD for outcome in outcomes)


@contextmanager
def _blueprints_coming(settings: Settings, growth: Growth) -> Iterator[None]:
    """Have one new blueprint after the other compiled for the sites of a run."""
    signatures = {name: site.signature for name, site in growth.sites.items()}
    enough = threading.Event()
    with Submitter(settings, signatures) as submitter, ThreadPoolExecutor(1) as thread:

        def write() -> None:
            for blueprint in new_blueprints():
                if enough.is_set():
                    return
                submitter.ready_after_s(blueprint)

        written = thread.submit(write)
        try:
            yield
        finally:
            enough.set()
        written.result()


def _figures(pairs: list[Pair]) -> Iterator[Figure]:
    for kind, what in WHAT.items():
        values = [float(each.differing[kind]) for each in pairs]
        yield figure(f"differing-{kind}", f"{what} that differ", "bytes", values, goal=ALIKE)
    yield figure("steps", "steps of each twin", "steps", [float(each.steps) for each in pairs])
    yield figure(
        "kernels",
        "kernels that were compiled meanwhile, verified and offered",
        "kernels",
        [float(each.kernels) for each in pairs],
    )
    yield figure(
        "withheld",
        "decisions that were made meanwhile, and withheld",
        "decisions",
        [float(each.withheld) for each in pairs],
    )


WHAT: Final = {
    "weights": "weights and buffers",
    "optimizer": "the optimizer's moments",
    "losses": "the losses of all steps",
    "random": "torch's random numbers",
}
