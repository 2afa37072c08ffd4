"""The page that says what a grown host lives with; `python -m tests.compat.page` writes it."""

from pathlib import Path
from typing import Final

from tests.compat.features import FEATURES

PAGE: Final = Path(__file__).parents[2] / "docs" / "compatibility.md"

HEAD: Final = """# What growth lives with

Rendered by `python -m tests.compat.page` from the tests; do not edit. In each row, a host with
kernels at a convolution and a linear layer is trained beside the same network written by hand,
and ends with the same outputs, bit for bit unless a tolerance is given. "H200" is a test of its own
that ran there; what was not run on a GPU is marked so.

| feature | CPU | tolerance | GPU |
| --- | --- | --- | --- |
"""

MORE: Final = """
Also tested, on the CPU: hooks of other libraries on a site's layer, weight normalisation, shared
weights, `copy.deepcopy`, `pickle`, a state dict loaded into a host grown alike, steps in which a
site does not run, hosts under `torch.compile` (compiled once, however many kernels come and go),
evaluation, in which torch fuses encoder layers, and leaving: an emptied site is the host's own
layer again.

## Where growth is possible

At any submodule that takes a tensor and gives one of the same rank, samples first: `nn.Linear`,
`nn.Conv1d`, `nn.Conv2d`, `nn.MultiheadAttention` with `batch_first=True`, residual blocks,
`nn.TransformerEncoderLayer` and layers inside it, a `nn.Sequential`. What grew around a block,
attention among them, cannot be exported as source yet.

## What keeping a kernel for good does

Its slot is spent. A kernel that is affine at each position, as `low-rank-skip` and `identity` are,
is merged into a plain `nn.Linear` or `nn.Conv2d` where that computes the same up to rounding in
float32: weight and bias of the layer take it in, and its own parameters leave model and optimizer.
Any other stays beside its layer and trains on, and so does every kernel of a layer that is frozen,
shared, normalised by weight or in half precision, or where another seed reads h; the log says why.

## What is refused, in a sentence, when growth begins

Models wrapped in `DistributedDataParallel`, TorchScript, layers that run several times or never in
a forward pass, layers named twice or shared, positions before samples, values other than float32,
float16 and bfloat16, results that are not a tensor, layers that the optimizer does not train, and
`torch.optim.LBFGS`.
"""


def rendered() -> str:
    """Return the page."""
    rows = [
        f"| {name} | yes | {feature.within or 'none'} | {'H200' if feature.gpu else 'not run'} |"
        for name, feature in FEATURES.items()
    ]
    return HEAD + "\n".join(rows) + "\n" + MORE


if __name__ == "__main__":
    PAGE.write_text(rendered())
