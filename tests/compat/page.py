"""The page of supported features; `python -m tests.compat.page` writes docs/compatibility.md."""

from pathlib import Path
from typing import Final, NamedTuple

from tests.compat.features import FEATURES, Feature

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "compatibility.md"

HEAD: Final = """# Compatibility

Rendered by `python -m tests.compat.page` from the tests; do not edit. Each row trains a host with
kernels at a convolution and a linear layer, and the same network written by hand. Their outputs
agree bit for bit unless a tolerance is given. On a GPU the sites replay [graphs](gpu.md), which
round differently; "eager" marks features under which they must not, which is tested too.

| feature | CPU | tolerance | GPU | tolerance on GPU |
| --- | --- | --- | --- | --- |
"""

SEVERAL: Final = """
## Over several processes or GPUs

Each row has its own test. The tests over NCCL, and with several GPUs, ran on two H100.

| feature | CPU | GPU | test |
| --- | --- | --- | --- |
"""

MORE: Final = """
## What else is tested

Also tested, on the CPU: hooks of other libraries on a site's layer, weight normalisation, shared
weights, `copy.deepcopy`, `pickle`, a state dict loaded into another host with the same kernels,
steps in which a site does not run, hosts under `torch.compile` (compiled once, however many
kernels are planted and culled), evaluation, in which torch fuses encoder layers, and removal: a
site without seeds runs the host's layer alone.

## Where growth is possible

At any submodule that maps a tensor to one of the same rank, batch first: `nn.Linear`,
`nn.Conv1d`, `nn.Conv2d`, `nn.MultiheadAttention` with `batch_first=True`, residual blocks,
`nn.TransformerEncoderLayer` and layers inside it, an `nn.Sequential`. A network with a seed around
a block, attention included, cannot be exported as source, unless the block is an `nn.Sequential`
of single layers.

## Fossilized kernels

The slot of a fossilized kernel is spent. A kernel that is affine at each position, such as
`low-rank-skip` and `identity`, is merged into a plain `nn.Linear` or `nn.Conv2d` if that computes
the same up to rounding in float32: its map is added to weight and bias of the layer, and its own
parameters leave model and optimizer. Any other kernel stays beside its layer and is trained. So
does every kernel of a layer that is frozen, shared, normalised by weight or in half precision, or
at which another seed reads h; the log gives the reason.

## Refused when growth begins, with a one-line message

- Of models: TorchScript; `nn.DataParallel`; models that FSDP shards; a model without a wrapper in
  several `torch.distributed` processes. `DistributedDataParallel` is
  [supported](guide.md#several-processes-ddp).
- Of layers: layers that run several times or never in a forward pass, are named twice, or belong to
  another growth; positions before the batch; values other than float32, float16 and bfloat16;
  results that are not a tensor; layers that the optimizer does not train.
- Of optimizers: `torch.optim.LBFGS` and `ZeroRedundancyOptimizer`.
- Of runs: `lockstep` over several ranks, and ranks that call `grow` with a model, sites or settings
  other than those of rank 0.
"""


class DistributedFeature(NamedTuple):
    """A feature of several processes or GPUs, its back ends, and its tests as (file, name)."""

    name: str
    cpu: str
    gpu: str
    tests: tuple[tuple[str, str], ...]


DISTRIBUTED: Final = (
    DistributedFeature(
        "`DistributedDataParallel`",
        "gloo",
        "NCCL",
        (
            (
                "tests/seed/test_synchronizer.py",
                "test_two_ranks_train_the_same_as_one_process_on_the_joined_batch",
            ),
            (
                "tests/seed/test_cuda_ranks.py",
                "test_two_ranks_on_a_gpu_train_the_same_as_one_process_on_the_joined_batch",
            ),
        ),
    ),
    DistributedFeature(
        "growth under `torchrun`",
        "gloo",
        "NCCL",
        (
            (
                "tests/training/test_ranks.py",
                "test_all_ranks_apply_a_decision_at_one_step_or_refuse_it_if_one_rank_cannot_load",
            ),
        ),
    ),
    DistributedFeature(
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


def render() -> str:
    """Return the page."""
    rows = [
        f"| {name} | yes | {_tolerance(feature.within)} | {_on_gpu(feature)} |"
        for name, feature in FEATURES.items()
    ]
    several = [
        f"| {row.name} | {row.cpu} | {row.gpu} | {_list(row.tests)} |" for row in DISTRIBUTED
    ]
    return HEAD + "\n".join(rows) + "\n" + SEVERAL + "\n".join(several) + "\n" + MORE


def _on_gpu(feature: Feature) -> str:
    if feature.on_gpu is None:
        return "no | "
    return f"{'yes' if feature.eager is None else 'yes, eager'} | {_tolerance(feature.on_gpu)}"


def _tolerance(within: float) -> str:
    return f"{within or 'none'}"


def _list(tests: tuple[tuple[str, str], ...]) -> str:
    return "<br>".join(f"`{file}`: `{name}`" for file, name in tests)


if __name__ == "__main__":
    PAGE.write_text(render())
