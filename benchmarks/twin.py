"""A training with a busy pipeline and withheld decisions, compared bit by bit with a plain loop.

Both start equal. Compiling and offering kernels, probing, reporting, deciding and building the
kernels to plant must not change any bit of the training.
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
from esper.tasks import load_digits
from esper.topics.models import OutcomeStatus
from esper.training import Growth

ALIKE: Final = Goal(sense="at most", limit=0, of="worst")
SITES: Final = ("conv2", "fc1")
BATCH: Final = 32
REPORT_EVERY: Final = 10
TIMEOUT_S: Final = 120.0


class Workload(NamedTuple):
    """Pairs of trainings, and the least steps and withheld decisions of the busy one."""

    pairs: int
    steps: int
    decisions: int


FULL: Final = Workload(pairs=5, steps=2000, decisions=20)
QUICK: Final = Workload(pairs=1, steps=100, decisions=2)


class Host(nn.Module):
    """A digits host with batch norm and dropout, which show a stray pass or random number."""

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
    """A training that depends on its seed alone."""

    seed: int
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make model, optimizer and batches with torch's global random state."""
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
        """Return the whole state of the training, by kind and name."""
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
    """Activity of the busy training, and the bytes of each kind that differ from the other."""

    steps: int
    kernels: int
    withheld: int
    differing: dict[str, int]


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack."""
    pairs = [pair(stack.settings, seed, workload) for seed in range(1, workload.pairs + 1)]
    return Measurement(
        parameters={**workload._asdict(), "report_every_steps": REPORT_EVERY},
        figures=tuple(_figures(pairs)),
    )


def pair(settings: Settings, seed: int, workload: Workload, **arguments: Any) -> Pair:
    """Train the busy twin, then the plain one as long; `arguments` are fields of `GrowConfig`."""
    with one_thread():
        return _pair(settings, seed, workload, arguments)


def _pair(settings: Settings, seed: int, workload: Workload, arguments: dict[str, Any]) -> Pair:
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
        _train(busy, growth, workload)
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
    """Return the number of differing bytes by kind; a missing tensor counts with all its bytes."""
    return {
        kind: sum(
            _bytes_differing(tensors.get(name), theirs[kind].get(name))
            for name in tensors.keys() | theirs[kind].keys()
        )
        for kind, tensors in ours.items()
    }


def _bytes_differing(ours: Tensor | None, theirs: Tensor | None) -> int:
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return max(tensor.nbytes for tensor in (ours, theirs) if tensor is not None)
    ours, theirs = (tensor.detach().reshape(-1).view(torch.uint8) for tensor in (ours, theirs))
    return int((ours != theirs).sum())


def _train(twin: Twin, growth: Growth, workload: Workload) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(twin.losses) < workload.steps or _withheld(growth) < workload.decisions:
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{_withheld(growth)} decisions in {TIMEOUT_S:g} s, not {workload.decisions}; "
                "see the log of the bandit worker"
            )
        twin.step(growth)


def _withheld(growth: Growth) -> int:
    outcomes = growth.run_history.outcomes.values()
    return sum(outcome.status is OutcomeStatus.WITHHELD for outcome in outcomes)


@contextmanager
def _blueprints_coming(settings: Settings, growth: Growth) -> Iterator[None]:
    """Submit one new blueprint after the other for the sites of a run, within the block."""
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
    for kind, title in TITLES.items():
        values = [float(pair.differing[kind]) for pair in pairs]
        yield figure(f"differing-{kind}", f"{title} that differ", "bytes", values, goal=ALIKE)
    yield figure("steps", "steps of each twin", "steps", [float(pair.steps) for pair in pairs])
    yield figure(
        "kernels",
        "kernels that were compiled, verified and offered during training",
        "kernels",
        [float(pair.kernels) for pair in pairs],
    )
    yield figure(
        "withheld",
        "decisions that were made and withheld during training",
        "decisions",
        [float(pair.withheld) for pair in pairs],
    )


TITLES: Final = {
    "weights": "weights and buffers",
    "optimizer": "the optimizer's moments",
    "losses": "the losses of all steps",
    "random": "torch's random numbers",
}
