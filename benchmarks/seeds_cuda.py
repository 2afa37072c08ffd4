"""A host convolution with four planted kernels on a GPU, forward and backward, against eager code.

`eager` is user code: the same convolution and the same kernels as plain modules, one after the
other. It is compared with the form that a host grows into (a graph with the kernels on streams
beside the convolution) and with the parts of that form.
A round times several steps in a row of each form, in shuffled order, between two CUDA events. Each
step computes new gradients, also of the input, as in the middle of a network.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.kernels import Precision, bfloat16, check_device, device_name, kernel_of, plain_of
from benchmarks.result import Figure, Goal, Measurement, figure, ratio
from esper.blueprint import shipped_named
from esper.compiler import BlueprintCompiler, KernelOptimizer
from esper.kernel import Kernel
from esper.seed import Seed, Site, find_sites
from esper.seed.cuda import (
    NO_SIDE_STREAMS,
    PASSES_BEFORE_CAPTURE,
    STREAMS,
    CapturedGraph,
    SiteGraphs,
    StreamManager,
    capture_due,
)
from esper.tasks import RESNET
from esper.topics.models import SiteKind, SiteSignature

SEEDS: Final = 4
ALPHA: Final = 0.5
STEPS: Final = 10
ROUNDS: Final = 20
QUICK_ROUNDS: Final = 3
WARMING_STEPS: Final = PASSES_BEFORE_CAPTURE + 1
TRAINING_BATCH: Final = 128
BLUEPRINTS: Final = {
    SiteKind.FEATURE_MAP: "conv-bottleneck",
    SiteKind.VECTOR: "linear-bottleneck",
}
PRECISIONS: Final[dict[str, Precision]] = {
    "fp32": lambda: torch.autocast("cuda", enabled=False),
    "bf16": bfloat16("cuda"),
}

Step = Callable[[], object]


class Shape(NamedTuple):
    """A batch of images at the site, and its goal."""

    batch: int
    channels: int
    side: int
    goal: Goal


SHAPES: Final = {
    "small": Shape(32, 64, 32, Goal(sense="at most", limit=0.30)),
    "large": Shape(512, 128, 32, Goal(sense="at most", limit=0.80)),
}


class GrownForm(NamedTuple):
    """How a planted site runs: streams of the eager form, and of the recorded form if any."""

    eager: StreamManager
    recorded: StreamManager | None
    fused: bool


GROWN: Final = {
    "grown": GrownForm(NO_SIDE_STREAMS, STREAMS, fused=True),
    "streams": GrownForm(STREAMS, None, fused=False),
    "graph": GrownForm(NO_SIDE_STREAMS, NO_SIDE_STREAMS, fused=False),
    "graph-streams": GrownForm(NO_SIDE_STREAMS, STREAMS, fused=False),
}
TITLES: Final = {
    "grown": "as a host grows into it: graph, streams, fused sums",
    "grown-channels-last": "the same, input and weights channels last",
    "streams": "streams only",
    "graph": "graph only",
    "graph-streams": "graph and streams",
    "channels-last": "eager, input and weights channels last",
}
CHANNELS_LAST: Final = "channels-last"


class Plain(nn.Module):
    """A layer and kernels as plain user code."""

    def __init__(self, layer: nn.Module, kernels: list[nn.Module]) -> None:
        super().__init__()
        self.layer = layer
        self.kernels = nn.ModuleList(kernels)
        self.alpha: Tensor
        self.register_buffer("alpha", torch.tensor(ALPHA))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output plus those of the kernels."""
        h = self.layer(x)
        y: Tensor = h
        for kernel in self.kernels:
            y = y + self.alpha * kernel(x, h)
        return y


def run(quick: bool = False) -> Measurement:
    """Measure one site of each size and precision, then whole training steps."""
    check_device("cuda")
    figures: list[Figure] = []
    cases = [
        (f"{name}-{precision}", shape, context)
        for name, shape in SHAPES.items()
        for precision, context in PRECISIONS.items()
    ]
    for case in cases:
        figures += site_figures(*case, quick)
    figures += training_figures(quick)
    for case in cases:
        figures.append(compiled_figure(*case, quick))
    return Measurement(parameters=parameters(), figures=tuple(figures))


def parameters() -> dict[str, Any]:
    """Return the parameters of the result."""
    shapes = {name: list(shape[:3]) for name, shape in SHAPES.items()}
    return {"device": device_name("cuda"), "seeds": SEEDS, "steps_a_round": STEPS, **shapes}


def site_figures(name: str, shape: Shape, precision: Precision, quick: bool) -> Iterator[Figure]:
    """Yield the ratio of each form to eager, at one site in one precision."""
    steps: dict[str, Step] = {}
    sites: dict[str, Site] = {}
    for form in ("eager", *TITLES):
        module, x = _form(form, shape, sites)
        steps[form] = _step(module, x, precision)
    ms = _interleaved(steps, QUICK_ROUNDS if quick else ROUNDS)
    for form, title in TITLES.items():
        yield ratio(
            f"{name}-{form}",
            f"{name}, {title}",
            (f"{form}_ms", ms[form]),
            ("eager_ms", ms["eager"]),
            goal=shape.goal if form == "grown" else None,
        )
    stats = [site.bank.capture_stats for site in sites.values() if site.bank]
    yield figure(
        f"{name}-capture",
        f"{name}, recording a configuration, outside of the steps",
        "ms",
        [site.capture_ms / site.captures for site in stats if site.captures],
    )


def compiled_figure(name: str, shape: Shape, precision: Precision, quick: bool) -> Figure:
    """Return the ratio of torch.compile of the plain modules to the same eagerly."""
    torch._dynamo.reset()
    plain, x = _form("eager", shape, {})
    steps = {
        "eager": _step(plain, x, precision),
        "compile": _step(torch.compile(plain, dynamic=False), x, precision),  # type: ignore[arg-type]
    }
    ms = _interleaved(steps, QUICK_ROUNDS if quick else ROUNDS)
    title = f"{name}, torch.compile of the plain modules"
    over, under = ("compile_ms", ms["compile"]), ("eager_ms", ms["eager"])
    return ratio(f"{name}-compile", title, over, under)


def _form(form: str, shape: Shape, sites: dict[str, Site]) -> tuple[nn.Module, Tensor]:
    """Return the network in one form and its input; weights are equal in all forms."""
    torch.manual_seed(0)
    _, channels, side, _ = shape
    layer = nn.Conv2d(channels, channels, 3, padding=1).cuda()
    x = torch.randn(shape.batch, channels, side, side, device="cuda", requires_grad=True)
    if form.endswith(CHANNELS_LAST):
        layer = layer.to(memory_format=torch.channels_last)
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    if how := GROWN.get(form.removesuffix(f"-{CHANNELS_LAST}")):
        host = nn.Sequential(layer)
        sites[form] = find_sites(host, ["0"], x.detach()[:1], SEEDS)["0"]
        _plant(sites[form], SEEDS, how)
        return host, x
    plain: nn.Module = Plain(layer, [plain_of(_kernel(_signature(shape))) for _ in range(SEEDS)])
    plain.cuda()
    if form == CHANNELS_LAST:
        plain = plain.to(memory_format=torch.channels_last)
    return plain, x


def _signature(shape: Shape) -> SiteSignature:
    size = (shape.channels, shape.side, shape.side)
    return SiteSignature(kind=SiteKind.FEATURE_MAP, x=size, h=size, device="cuda")


def _kernel(signature: SiteSignature) -> Kernel:
    blueprint = shipped_named(BLUEPRINTS[signature.kind])
    return kernel_of(KernelOptimizer().optimize(BlueprintCompiler().compile(blueprint, signature)))


def _plant(site: Site, seeds: int, how: GrownForm) -> None:
    for slot in range(seeds):
        site.plant(slot, Seed(_kernel(site.signature), ALPHA).cuda())
    bank = site.bank
    assert bank is not None
    bank.use_streams(how.eager)
    record = partial(CapturedGraph, fused=how.fused)
    bank.graphs = SiteGraphs(record, how.recorded or NO_SIDE_STREAMS)
    bank.graphs.enabled = how.recorded is not None


def _step(module: nn.Module, x: Tensor, precision: Precision) -> Step:
    leaves = (x, *module.parameters())
    with torch.no_grad(), precision():
        upstream = torch.randn_like(module(x))

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        with precision():
            y = module(x)
        torch.autograd.backward(y, upstream)

    return step


def training_figures(quick: bool) -> Iterator[Figure]:
    """Yield whole training steps of a residual network with a seed at each of its sites."""
    for precision, context in PRECISIONS.items():
        steps = {form: _training_step(form, context) for form in ("eager", "grown")}
        ms = _interleaved(steps, QUICK_ROUNDS if quick else ROUNDS)
        yield ratio(
            f"resnet-{precision}-grown",
            f"whole training step of a residual network, {len(RESNET.sites)} sites with a seed "
            f"each, batch {TRAINING_BATCH}, {precision}",
            ("grown_ms", ms["grown"]),
            ("eager_ms", ms["eager"]),
        )


def _training_step(form: str, precision: Precision) -> Step:
    torch.manual_seed(0)
    model = RESNET.host().cuda()
    x = torch.randn(TRAINING_BATCH, 1, 32, 32, device="cuda")
    target = torch.randint(10, (TRAINING_BATCH,), device="cuda")
    for name, site in find_sites(model, RESNET.sites, x[:2], 1).items():
        if form == "grown":
            _plant(site, 1, GROWN["grown"])
        else:
            plain = Plain(site.layer, [plain_of(_kernel(site.signature))]).cuda()
            model.set_submodule(name, plain)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        with precision():
            loss = F.cross_entropy(model(x), target)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _interleaved(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds per step of each form, one value per round, in shuffled order."""
    for step in steps.values():
        for _ in range(WARMING_STEPS):
            step()
            capture_due()
    order, shuffle = list(steps), random.Random(0).shuffle
    taken: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            taken[name].append(_ms(steps[name]))
    return taken


def _ms(step: Step) -> float:
    make: Callable[..., torch.cuda.Event] = torch.cuda.Event
    start, end = make(enable_timing=True), make(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(STEPS):
        step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / STEPS
