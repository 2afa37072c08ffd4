"""The simulated bandits that policies are measured on, each made from a seed."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from esper.bandit import (
    FamilyMemory,
    MemoryUpdate,
    Prior,
    features,
    policy_for,
    priors_for,
    snapshot,
    with_run,
)
from esper.topics.codec import sha256_of
from esper.topics.models import (
    KernelCost,
    LoadableKernel,
    PolicySpec,
    Priors,
    SiteFacts,
    SiteKind,
)
from experiments.regret.play import EsperAgent, FloatArray, World, play

MEANS: Final = (0.3, 0.35, 0.4, 0.45, 0.6)
SIGMA: Final = 0.1
"""The standard deviation of Gaussian rewards."""

DRIFTING: Final = (0.2, 0.3, 0.4, 0.5, 0.8)
PHASE_TRIALS: Final = 400

MANY: Final = 10_000
PRIOR_SIGMA: Final = 0.1
"""Spread of priors around the means of the many arms, and of these means around 0.5."""

CONTEXT_SITES: Final = 10
CATEGORIES: Final = ("attention", "conv", "gated", "low-rank", "mixing", "mlp")
CONTEXT_SIGMA: Final = 0.1
"""Spread of the means of contextual arms, with informative features and without."""

UNEXPLAINED: Final = 0.02
"""Spread of the means that informative features do not explain."""

BLUEPRINTS: Final = 20
EARLIER_RUNS: Final = 3
EARLIER_TRIALS: Final = 100
FAMILY_SIGMA: Final = 0.02
"""Spread of a run's means around those of its family."""

SIGNATURE: Final = "signature"
GAUSSIAN: Final = PolicySpec(
    name="thompson-gaussian", params={"sigma": SIGMA, "prior_sigma": CONTEXT_SIGMA}
)
"""Thompson sampling with the true spread of rewards and means."""


def bernoulli(seed: int, trials: int) -> World:
    """Return five arms with rewards of 0 or 1."""
    return World(np.array([MEANS]), _generator(seed).random(trials), trials)


def gaussian(seed: int, trials: int) -> World:
    """Return the same means with little noise, rewards clipped to [0, 1]."""
    noise = _generator(seed).standard_normal(trials)
    return World(np.array([MEANS]), noise, trials, SIGMA)


def drifting(seed: int, trials: int) -> World:
    """Return five arms of 0 or 1 whose means rotate every `PHASE_TRIALS` trials."""
    generator = _generator(seed)
    phases = [np.roll(DRIFTING, 2 * phase) for phase in range(-(-trials // PHASE_TRIALS))]
    return World(np.array(phases), generator.random(trials), PHASE_TRIALS)


def switching(seed: int, trials: int) -> World:
    """Return three arms, of which the second best is the best between 3/10 and 5/10 of the trials.

    Garivier and Moulines (ALT 2011), section 5.
    """
    usual, between = (0.5, 0.3, 0.4), (0.5, 0.3, 0.9)
    phases = [between if 3 <= tenth < 5 else usual for tenth in range(10)]
    return World(np.array(phases), _generator(seed).random(trials), -(-trials // 10))


def many(seed: int, trials: int, *, informed: bool) -> World:
    """Return ten thousand Gaussian arms; priors are unbiased and weigh one trial each."""
    generator = _generator(seed)
    means = np.clip(0.5 + PRIOR_SIGMA * generator.standard_normal(MANY), 0.0, 1.0)
    believed = np.clip(means + PRIOR_SIGMA * generator.standard_normal(MANY), 0.0, 1.0)
    noise = generator.standard_normal(trials)
    priors = {arm: Prior(1.0, float(mean)) for arm, mean in enumerate(believed)} if informed else {}
    return World(means[None, :], noise, trials, SIGMA, priors)


def contextual(seed: int, trials: int, *, informative: bool) -> World:
    """Return six blueprints at each of ten sites; `informative`: features set the means."""
    generator = _generator(seed)
    x = _features(generator)
    if informative:
        centred = x - x.mean(axis=0)
        explained = centred @ generator.standard_normal(x.shape[1])
        spread = (
            CONTEXT_SIGMA * explained / explained.std()
            + UNEXPLAINED * generator.standard_normal(len(x))
        )
    else:
        spread = CONTEXT_SIGMA * generator.standard_normal(len(x))
    means = np.clip(0.5 + spread, 0.0, 1.0)
    noise = generator.standard_normal(trials)
    return World(means[None, :], noise, trials, SIGMA, features=x)


def remembering(seed: int, trials: int, *, family: str | None) -> World:
    """Return twenty blueprints at one site, with priors from earlier runs of a family.

    Runs of a `like` (similar) family have nearly equal means, those of an `unlike` one unrelated
    means. `family` None: no priors.
    """
    generator = _generator(seed)
    own = 0.5 + CONTEXT_SIGMA * generator.standard_normal(BLUEPRINTS)
    others = 0.5 + CONTEXT_SIGMA * generator.standard_normal(BLUEPRINTS)
    means = _near(own, generator)
    noise = generator.standard_normal(trials)
    priors: Mapping[int, Prior] = {}
    if family is not None:
        priors = _priors_from(own if family == "like" else others, generator, seed)
    return World(means[None, :], noise, trials, SIGMA, priors)


WORLDS: Final[Mapping[str, Callable[[int, int], World]]] = {
    "bernoulli": bernoulli,
    "gaussian": gaussian,
    "drift": drifting,
    "switch": switching,
    "many": lambda seed, trials: many(seed, trials, informed=False),
    "many-priors": lambda seed, trials: many(seed, trials, informed=True),
    "context": lambda seed, trials: contextual(seed, trials, informative=True),
    "context-none": lambda seed, trials: contextual(seed, trials, informative=False),
    "memory-none": lambda seed, trials: remembering(seed, trials, family=None),
    "memory-like": lambda seed, trials: remembering(seed, trials, family="like"),
    "memory-unlike": lambda seed, trials: remembering(seed, trials, family="unlike"),
}


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _near(family: FloatArray, generator: np.random.Generator) -> FloatArray:
    return np.clip(family + FAMILY_SIGMA * generator.standard_normal(len(family)), 0.0, 1.0)


def _priors_from(
    family: FloatArray, generator: np.random.Generator, seed: int
) -> Mapping[int, Prior]:
    """Return the priors from a memory of played runs, computed by the production code."""
    memory = FamilyMemory()
    for run in range(EARLIER_RUNS):
        noise = generator.standard_normal(EARLIER_TRIALS)
        world = World(_near(family, generator)[None, :], noise, EARLIER_TRIALS, SIGMA)
        agent = EsperAgent(world, EARLIER_RUNS * seed + run + 1_000_000, policy_for(GAUSSIAN))
        play(world, agent)
        updates = [
            MemoryUpdate(SIGNATURE, tried.blueprint_id, history.pulls, history.mean)
            for tried, history in agent.tracker.marginal.items()
            if tried.blueprint_id is not None
        ]
        memory = with_run(memory, updates, run_id=f"run-{run}", at_ms=run)
    kernels = [_kernel("site", str(index), "conv") for index in range(BLUEPRINTS)]
    known = snapshot(memory, [SIGNATURE])
    priors = priors_for(kernels, {"site": SIGNATURE}, known, Priors(cost=0.0))
    return {index: prior for index, prior in enumerate(priors) if prior.weight}


def _features(generator: np.random.Generator) -> FloatArray:
    """Return the features (kernels, d) of kernels at the sites of a typical network."""
    kinds = (SiteKind.VECTOR, SiteKind.FEATURE_MAP)
    facts = {
        f"layer{index}": SiteFacts(
            kind=kinds[index < CONTEXT_SITES // 2],
            signature=SIGNATURE,
            depth=index / (CONTEXT_SITES - 1),
            params=1000,
        )
        for index in range(CONTEXT_SITES)
    }
    norms = generator.random(CONTEXT_SITES)
    gradients = {site: float(norm) for site, norm in zip(facts, norms, strict=True)}
    kernels = [
        _kernel(site, category, category, int(generator.integers(100, 10_000)))
        for site in facts
        for category in CATEGORIES
    ]
    return features(facts, gradients, kernels)


def _kernel(site: str, blueprint: str, category: str, params: int = 100) -> LoadableKernel:
    return LoadableKernel(
        kernel_id=sha256_of(f"{site}/{blueprint}".encode()),
        site=site,
        blueprint_id=blueprint,
        category=category,
        params=params,
        cost=KernelCost(flops=params, latency_ratio=params / 1000, memory_ratio=params / 1000),
    )
