"""The performance goals: the figures that measure each, and why a goal is missed."""

from dataclasses import dataclass
from typing import Final

from benchmarks.kept import BENCHMARKS, EXPERIMENTS

KERNEL_OVER_PLAIN: Final = (
    "kernel-over-plain",
    "kernel-over-plain-autocast",
    "kernel-over-plain-checkpoint",
    "kernel-over-plain-checkpoint-reentrant",
    "kernel-over-plain-compiled",
)


@dataclass(frozen=True, slots=True)
class GoalRow:
    """One goal, and the figures of result `name` that measure it.

    `reason` is shown where the goal is missed. `page` is the page with the details, if it is not
    the one under `docs/figures/`; a goal without figures is judged on that page.
    """

    title: str
    goal: str
    name: str
    figures: tuple[str, ...]
    reason: str = ""
    page: str = ""
    package: str = BENCHMARKS

    @property
    def command(self) -> str:
        """The command that measures the figures."""
        return f"python -m {self.package} {self.name}"


GOALS: Final = (
    GoalRow(
        "dormant seeded layer ÷ plain layer, forward + backward, smallest layers",
        "≤ 1.005",
        "dormant",
        ("linear-dormant", "linear-emptied", "conv-dormant", "conv-emptied"),
        "the layer runs the host's own code; the rest is the difference between two plain layers "
        "(the twin, below)",
    ),
    GoalRow(
        "active kernel ÷ the same network as a plain `nn.Module`, over the catalog: eager, "
        "autocast bf16, both forms of gradient checkpointing, compiled host",
        "≤ 1.00 on CPU",
        "executor",
        KERNEL_OVER_PLAIN,
        "the loop over the plan costs more than it saves",
    ),
    GoalRow(
        "the same on a GPU",
        "≤ 1.00",
        "executor-cuda",
        KERNEL_OVER_PLAIN,
        "the loop over the plan costs more than it saves",
    ),
    GoalRow(
        "each pass of the optimiser for CPUs, with ÷ without it, on the kernels that it changes",
        "≤ 0.99",
        "passes",
        (
            "common-float32",
            "conv-at-one-float32",
            "conv-as-product-float32",
            "glu-float32",
            "pool-by-channel-float32",
            "depthwise-by-channel-float32",
            "liveness-peak-bytes",
        ),
        "the pass does not pay",
    ),
    GoalRow(
        "the same for GPUs, eager and captured as a graph",
        "≤ 0.99",
        "passes-cuda",
        (
            "common-float32",
            "common-bfloat16",
            "common-captured",
            "glu-float32",
            "glu-bfloat16",
            "glu-captured",
            "liveness-peak-bytes",
        ),
        "the pass does not pay",
    ),
    GoalRow(
        "host conv + 4 conv seeds on an H200, forward + backward ÷ eager sequential: batch 32 in "
        "fp32 and bf16, batch 512 in both",
        "≤ 0.30 (batch 32) and ≤ 0.80 (batch 512)",
        "seeds-cuda",
        ("small-fp32-grown", "small-bf16-grown", "large-fp32-grown", "large-bf16-grown"),
        "large sites are bound by memory: each group norm and bias of a kernel is a pass over it",
    ),
    GoalRow(
        "submitted on the topic → kernel-ready, median; the same ÷ compile alone",
        "≤ 150 ms, and ≤ 1.3",
        "pipeline",
        ("submitted-to-ready", "submitted-to-ready-over-compile"),
        "a build is so short that three confirmed records (blueprint, request, ready) and two "
        "agents, at a few milliseconds each, cost more than half of it",
    ),
    GoalRow(
        "one decision, 8 arms and 10,000 arms",
        "≤ 10 µs and ≤ 150 µs",
        "decide",
        ("choice-8", "choice-10000"),
        "each numpy operation on the arm arrays has a fixed cost, however few arms there are",
    ),
    GoalRow(
        "bytes of a decision with 3,000 arms ÷ with 16",
        "≤ 1.1",
        "decision-size",
        ("flat",),
        "a decision lists more candidates than the best few and those that it plants",
    ),
    GoalRow(
        "decision on the topic → active in the trainer, less one step",
        "≤ 10 ms",
        "pipeline",
        ("decision-to-active-beyond-a-step",),
        "threads that share the interpreter with training fetch and decode the decision and build "
        "its kernel (under 1 ms alone), on a machine shared with the workers",
    ),
    GoalRow(
        "p99 step time, pipeline busy ÷ pipeline off, trainer and pipeline on a core each: without "
        "the steps that report, with them; longest stall beyond it",
        "≤ 1.02, ≤ 1.02, ≤ 1 ms",
        "steps",
        ("p99-busy-over-off", "p99-busy-over-off-all", "stall-beyond-off"),
        "each step that reports measures a probe, whose share of training time is the next goal; "
        "beside ÷ off, below, shows the part of other work on the machine",
    ),
    GoalRow(
        "bytes of a training with a busy pipeline, decisions withheld, that differ without Esper: "
        "weights, optimizer, losses, random state",
        "0",
        "twin",
        ("differing-weights", "differing-optimizer", "differing-losses", "differing-random"),
        "code beside the training thread draws random numbers, or a probe leaves a trace",
    ),
    GoalRow(
        "probes and reports as a share of training time, default reporting interval",
        "≤ 0.03",
        "steps",
        ("report-share",),
        "the host here is so small that a probe of 200 samples costs as much as a training step",
    ),
    GoalRow(
        "seed-metrics through the bandit worker ÷ a bare aiokafka loop, 1 decision in 20 reports",
        "≥ 0.5",
        "bandit",
        ("worker-over-bare",),
        "the worker survives a crash and the bare loop does not: it writes each run's state to a "
        "table with a changelog, and waits for the broker twice in each batch",
    ),
    GoalRow(
        "memory of the bandit worker over the last tenth of 10^6 reports ÷ over the third tenth",
        "≤ 1.05",
        "memory-flat",
        ("late-over-early",),
        "the worker keeps data of each report, or of each closed run",
    ),
    GoalRow(
        "decide + apply with 10,000 ÷ 10 seeds: none changes, one changes",
        "≤ 1.25: at most linear in the seeds that change",
        "grow-step",
        ("step-flat", "change-flat"),
        "planting or culling a kernel takes time that depends on more than its own parameters",
    ),
    GoalRow(
        "one read of a 100 KB kernel, verified, on loopback: from memory, from Redis; memory ÷ "
        "dictionary and SHA-256; Redis and PostgreSQL ÷ bare client and SHA-256",
        "≤ 10 µs, ≤ 1 ms; ≤ 1; ≤ 1.5 each",
        "store",
        (
            "memory-get",
            "redis-get",
            "memory-get-over-hash",
            "redis-get-over-bare-and-hash",
            "postgres-get-over-bare-and-hash",
        ),
        "hashing 100 KB takes as long as fetching it over loopback, and health and counts of a "
        "tier cost some microseconds for each call",
    ),
    GoalRow(
        "random faults at every process for 25 minutes: share of the seconds outside outages in "
        "which a blueprint becomes ready, and a report is answered, within 10 s",
        "≥ 0.999",
        "chaos",
        ("available-blueprint", "available-report"),
        "the broker notices only after the session timeout that a killed or paused worker is gone, "
        "each join or leave moves partitions between all workers, and new ones start on the same "
        "two cores; in this run also beside other work of the machine",
        page="chaos.md",
    ),
    GoalRow(
        "auditions per second ÷ those of a bare loop over the same kernels and tensors, six sites: "
        "kernels without convolutions, with them",
        "≥ 3",
        "auditions",
        ("dense-stacked", "convolution-stacked"),
        "stacking saves the overhead of calls; on a CPU the arithmetic remains, and convolutions "
        "are nothing else",
    ),
    GoalRow(
        "the same on a GPU",
        "≥ 3",
        "auditions-cuda",
        ("dense-stacked", "convolution-stacked"),
        "the calls of one kernel still follow one another",
    ),
    GoalRow(
        "a snapshot of all sites ÷ the whole training: MNIST-1D, digits",
        "≤ 0.01",
        "snapshots",
        ("mnist1d-share", "digits-share"),
        "packing the snapshot takes longer than a step of so small a host",
    ),
    GoalRow(
        "test accuracy on MNIST-1D, grown with auditions; gain where nothing helps",
        "≥ 0.85; ≥ -0.01",
        "mnist1d",
        ("grown", "null"),
        "the kernel that helps was not among those that reached the last rung",
        package=EXPERIMENTS,
    ),
    GoalRow(
        "final loss of a run whose kernels explode ÷ that of the run never grown, the worst",
        "≤ 1.01",
        "governor",
        ("final-loss-huge", "final-loss-nan", "final-loss-scaled", "final-loss-growing"),
        "the steps between the snapshot and the alarm are lost, and the run is too short to make "
        "up for them",
    ),
    GoalRow(
        "a training step with the governor ÷ without, a small host and one of 10M parameters",
        "≤ 1.02",
        "governor",
        ("step-small", "step-10m"),
        "reading the loss costs about a microsecond a step, a snapshot copies the weights in each "
        "report",
    ),
    GoalRow(
        "regret after 1,000 trials of five Bernoulli arms ÷ that of reference implementations: "
        "Thompson sampling, KL-UCB",
        "≤ 1.10",
        "regret",
        ("thompson-beta-over-reference", "kl-ucb-over-reference"),
        "200 seeds are too few, or the policy differs from the paper's",
        page="regret.md",
        package=EXPERIMENTS,
    ),
    GoalRow(
        "regret where arms drift: sliding window ÷ stationary, the worst of all resamples",
        "< 1 in every resample of the seeds",
        "regret",
        ("drift-ucb", "drift-thompson", "switch-ucb", "switch-thompson"),
        "arms change faster than the window forgets",
        page="regret.md",
        package=EXPERIMENTS,
    ),
    GoalRow(
        "regret of a contextual policy ÷ a policy without context: informative features, "
        "uninformative features",
        "< 1 in every resample, ≤ 1.10",
        "regret",
        ("context-informative", "context-uninformative"),
        "the features outweigh the observed rewards",
        page="regret.md",
        package=EXPERIMENTS,
    ),
    GoalRow(
        "regret with memory ÷ without: similar family, first 50 trials; dissimilar family, first "
        "50 and first 200",
        "≤ 0.5, ≤ 1.15, ≤ 1.15",
        "regret",
        ("memory-like", "memory-unlike-50", "memory-unlike-200"),
        "memory counts as too few trials, or as too many",
        page="regret.md",
        package=EXPERIMENTS,
    ),
    GoalRow(
        "the conv teacher, where the right choice is known: share of runs in which the right site "
        "and blueprint are more than half of the last third of choices",
        "≥ 0.9",
        "convergence",
        ("majority-default",),
        "the rewards of a site say little about the one blueprint that it needs before that "
        "blueprint is tried",
        package=EXPERIMENTS,
    ),
    GoalRow(
        "test accuracy, bandit less random on four structural teachers; bandit less host on the "
        "null teacher",
        "≥ +5 points, interval excludes 0; within ±0.5",
        "evidence",
        (),
        page="evidence.md",
        package=EXPERIMENTS,
    ),
)
