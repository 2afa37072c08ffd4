"""The page that says what a grown host lives with; `python -m tests.compat.page` writes it."""

from pathlib import Path
from typing import Final, NamedTuple

from tests.compat.features import FEATURES, Feature

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "compatibility.md"

HEAD: Final = """# What growth lives with

Rendered by `python -m tests.compat.page` from the tests; do not edit. In each row, a host with
kernels at a convolution and a linear layer is trained beside the same network written by hand,
and ends with the same outputs, bit for bit unless a tolerance is given. On a GPU the sites replay
[graphs](gpu.md), which round otherwise; where they must not, "eager" says so, and is tested too.

| feature | CPU | tolerance | GPU | tolerance on GPU |
| --- | --- | --- | --- | --- |
"""

SEVERAL: Final = """
## Over several processes or GPUs

Each row has a test of its own. Over NCCL, and with several GPUs, they ran on two H100.

| what | CPU | GPU | test |
| --- | --- | --- | --- |
"""

MORE: Final = """
## What else is tested

Also tested, on the CPU: hooks of other libraries on a site's layer, weight normalisation, shared
weights, `copy.deepcopy`, `pickle`, a state dict loaded into a host grown alike, steps in which a
site does not run, hosts under `torch.compile` (compiled once, however many kernels come and go),
evaluation, in which torch fuses encoder layers, and leaving: an emptied site is the host's own
layer again.

## Where growth is possible

At any submodule that takes a tensor and gives one of the same rank, samples first: `nn.Linear`,
`nn.Conv1d`, `nn.Conv2d`, `nn.MultiheadAttention` with `batch_first=True`, residual blocks,
`nn.TransformerEncoderLayer` and layers inside it, a `nn.Sequential`. What grew around a block,
attention among them, cannot be exported as source yet, unless it is a `nn.Sequential` of single
layers.

## What keeping a kernel for good does

Its slot is spent. A kernel that is affine at each position, as `low-rank-skip` and `identity` are,
is merged into a plain `nn.Linear` or `nn.Conv2d` where that computes the same up to rounding in
float32: weight and bias of the layer take it in, and its own parameters leave model and optimizer.
Any other stays beside its layer and trains on, and so does every kernel of a layer that is frozen,
shared, normalised by weight or in half precision, or where another seed reads h; the log says why.

## What is refused, in a sentence, when growth begins

- Of models: TorchScript; `nn.DataParallel`; models that FSDP shards; a model in no wrapper where
  `torch.distributed` has several processes. `DistributedDataParallel` is
  [supported](operations.md#over-several-processes).
- Of layers: those that run several times or never in a forward pass, are named twice, or are part
  of another growth; positions before samples; values other than float32, float16 and bfloat16;
  results that are not a tensor; layers that the optimizer does not train.
- Of optimizers: `torch.optim.LBFGS` and `ZeroRedundancyOptimizer`.
- Of runs: `lockstep` over several ranks, and ranks that call `grow` with other models, sites or
  settings than rank 0.
"""


class OverSeveral(NamedTuple):
    """What several processes or GPUs do together: over what it ran, and tests by their file."""

    what: str
    cpu: str
    gpu: str
    tests: tuple[tuple[str, str], ...]


OVER_SEVERAL: Final = (
    OverSeveral(
        "`DistributedDataParallel`",
        "gloo",
        "NCCL",
        (
            (
                "tests/seed/test_synchronizer.py",
                "test_two_ranks_train_what_one_process_does_on_the_joined_batch",
            ),
            (
                "tests/seed/test_cuda_ranks.py",
                "test_two_ranks_on_a_gpu_train_what_one_process_does_on_the_joined_batch",
            ),
        ),
    ),
    OverSeveral(
        "growth under `torchrun`",
        "gloo",
        "NCCL",
        (
            (
                "tests/training/test_ranks.py",
                "test_all_ranks_apply_a_decision_at_one_step_and_abstain_from_what_one_cannot_load",
            ),
        ),
    ),
    OverSeveral(
        "several GPUs in one process",
        "",
        "yes",
        (
            (
                "tests/seed/test_cuda_several.py",
                "test_sites_on_two_gpus_are_each_replayed_there_and_right",
            ),
        ),
    ),
)


def rendered() -> str:
    """Return the page."""
    rows = [
        f"| {name} | yes | {_tolerance(feature.within)} | {_on_gpu(feature)} |"
        for name, feature in FEATURES.items()
    ]
    several = [
        f"| {row.what} | {row.cpu} | {row.gpu} | {_listed(row.tests)} |" for row in OVER_SEVERAL
    ]
    return HEAD + "\n".join(rows) + "\n" + SEVERAL + "\n".join(several) + "\n" + MORE


def _on_gpu(feature: Feature) -> str:
    if feature.on_gpu is None:
        return "no | "
    return f"{'yes' if feature.eager is None else 'yes, eager'} | {_tolerance(feature.on_gpu)}"


def _tolerance(within: float) -> str:
    return f"{within or 'none'}"


def _listed(tests: tuple[tuple[str, str], ...]) -> str:
    return "<br>".join(f"`{file}`: `{name}`" for file, name in tests)


if __name__ == "__main__":
    PAGE.write_text(rendered())
