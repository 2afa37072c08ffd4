"""The figures that Esper sets out to reach, with what measures each and what stands in the way."""

from dataclasses import dataclass

KERNEL_OVER_PLAIN = (
    "kernel-over-plain",
    "kernel-over-plain-autocast",
    "kernel-over-plain-checkpoint",
    "kernel-over-plain-checkpoint-reentrant",
    "kernel-over-plain-compiled",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One goal: the figures of a benchmark that answer it, or the page beside that tells.

    `reason` says why it is not reached, where it is not.
    """

    what: str
    goal: str
    benchmark: str
    figures: tuple[str, ...]
    reason: str
    page: str = ""

    @property
    def command(self) -> str:
        """The command that measures it."""
        return f"`python -m benchmarks {self.benchmark}`"


ROWS = (
    Row(
        "dormant seeded layer ÷ plain layer, forward + backward, smallest layers",
        "≤ 1.005",
        "dormant",
        ("linear-dormant", "linear-emptied", "conv-dormant", "conv-emptied"),
        "the layer runs the host's own code; what is left is what two plain layers differ by "
        "(the twin, below)",
    ),
    Row(
        "active kernel ÷ the same network as a plain `nn.Module`, over the catalog: eager, "
        "autocast bf16, gradient checkpointing, compiled host",
        "≤ 1.00 on CPU",
        "executor",
        KERNEL_OVER_PLAIN,
        "the loop over the plan costs more than it saves",
    ),
    Row(
        "the same on a GPU",
        "≤ 1.00",
        "executor-cuda",
        KERNEL_OVER_PLAIN,
        "the loop over the plan costs more than it saves",
    ),
    Row(
        "a pass of the optimiser for CPUs, with ÷ without it, on the kernels that it changes",
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
    Row(
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
    Row(
        "host conv + 4 conv seeds on an H200, forward + backward ÷ eager sequential",
        "≤ 0.30 (batch 32) and ≤ 0.80 (batch 512)",
        "seeds-cuda",
        ("small-fp32-grown", "small-bf16-grown", "large-fp32-grown", "large-bf16-grown"),
        "large sites wait for memory: the kernels' own group norms and biases, each a pass over it",
    ),
    Row(
        "submitted on the topic → kernel-ready, median",
        "≤ 0.15 s, and ≤ 1.3 times compile alone",
        "pipeline",
        ("submitted-to-ready", "submitted-to-ready-over-compile"),
        "building takes so little that three confirmed records (blueprint, request, ready) and "
        "two agents, at a few milliseconds each, weigh more than half as much",
    ),
    Row(
        "one decision, 8 arms and 10,000 arms",
        "≤ 10 µs and ≤ 150 µs",
        "decide",
        ("choice-8", "choice-10000"),
        "each operation on columns costs what it costs in numpy, however few arms there are",
    ),
    Row(
        "decision on the topic → active in the trainer",
        "≤ 1 step + 10 ms",
        "pipeline",
        ("decision-to-active-beyond-a-step",),
        "fetching and decoding the decision and building its kernel (under 1 ms alone) happen on "
        "threads that share the interpreter with training, on a machine shared with the workers",
    ),
    Row(
        "p99 step time, pipeline busy ÷ pipeline off, trainer and pipeline on a core each",
        "≤ 1.02, no stall over 1 ms beyond it",
        "steps",
        ("p99-busy-over-off", "p99-busy-over-off-all", "stall-beyond-off"),
        "with the steps that report: each of those has a probe to measure, whose share of training "
        "time stands in the next row; what the machine does besides is in beside ÷ off, below",
    ),
    Row(
        "bits of a training with a busy pipeline, decisions withheld, that are other without Esper",
        "0",
        "twin",
        ("differing-weights", "differing-optimizer", "differing-losses", "differing-random"),
        "something beside the training thread draws random numbers, or a probe leaves a trace",
    ),
    Row(
        "probes and reports as a share of training time, default reporting interval",
        "≤ 3 %",
        "steps",
        ("report-share",),
        "the host here is so small that a probe of 200 samples costs as much as a training step",
    ),
    Row(
        "seed-metrics through the bandit worker ÷ a bare aiokafka loop, 1 decision in 20 reports",
        "≥ 0.5",
        "bandit",
        ("worker-over-bare",),
        "the worker survives a crash and the bare loop does not: it writes each run's state to a "
        "table with a changelog, and waits for the broker twice in each batch",
    ),
    Row(
        "memory of the bandit worker over the last tenth of 10^6 reports ÷ over the third tenth",
        "≤ 1.05",
        "memory-flat",
        ("late-over-early",),
        "something of each report, or of each run that is over, is kept",
    ),
    Row(
        "decide + apply from 10 to 10,000 seeds",
        "at most linear in the seeds that change",
        "grow-step",
        ("step-flat", "change-flat"),
        "a kernel joins and leaves in time that hangs on its own parameters only",
    ),
    Row(
        "final loss of a run whose kernels explode ÷ that of the run never grown, the worst",
        "≤ 1.01",
        "governor",
        ("final-loss-huge", "final-loss-nan", "final-loss-scaled", "final-loss-growing"),
        "the steps between the snapshot and the alarm are lost, and the run is too short to make "
        "up for them",
    ),
    Row(
        "a training step with the governor ÷ without, a small host and one of 10M parameters",
        "≤ 1.02",
        "governor",
        ("step-small", "step-10m"),
        "reading a loss costs about a microsecond a step, a snapshot a copy of all in each report",
    ),
    Row(
        "regret after 1,000 trials of five Bernoulli arms ÷ that of reference implementations: "
        "Thompson sampling, KL-UCB",
        "≤ 1.10",
        "regret",
        ("thompson-beta-over-reference", "kl-ucb-over-reference"),
        "200 seeds are too few, or the policy is not the one of the paper",
    ),
    Row(
        "regret where arms drift: sliding window ÷ stationary",
        "< 1 in every resample of the seeds",
        "regret",
        ("drift-ucb", "drift-thompson", "switch-ucb", "switch-thompson"),
        "arms change faster than the window forgets",
    ),
    Row(
        "regret of a contextual policy ÷ one that is not, where features inform, where they do not",
        "< 1, ≤ 1.10",
        "regret",
        ("context-informative", "context-uninformative"),
        "what features say outweighs what arms show",
    ),
    Row(
        "regret with memory ÷ without: of a like family, of an unlike one",
        "≤ 0.5 in the first 50 trials, ≤ 1.15",
        "regret",
        ("memory-like", "memory-unlike-50", "memory-unlike-200"),
        "memory counts as too few trials, or as too many",
    ),
    Row(
        "the conv teacher, where the right choice is known: the right site and blueprint are more "
        "than half of the last third of choices",
        "≥ 90 % of runs",
        "convergence",
        ("majority-default",),
        "how a site has done says little of the one blueprint that it lacks, until that was tried",
    ),
    Row(
        "bandit less random on four structural teachers; on the null teacher",
        "≥ +5 points, interval excludes 0; within ±0.5",
        "growth --suite known-answer --seeds 40",
        (),
        "",
        page="evidence.md",
    ),
)
