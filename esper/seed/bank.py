"""The kernels planted at one site, and how they join its output."""

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from esper.kernel import Kernel


class Seed(nn.Module):
    """One planted kernel and its blend factor.

    `alpha` is a tensor, so that changing it recompiles nothing: a scalar in training, one value
    per sample (shape (B,)) while contributions are measured.
    """

    alpha: Tensor

    def __init__(self, kernel: Kernel, alpha: float = 0.0) -> None:
        super().__init__()
        self.kernel = kernel
        self.register_buffer("alpha", torch.tensor(alpha))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return alpha * k(x, h), of the shape of `h`."""
        added: Tensor = self.kernel(x, h)
        alpha = self.alpha
        if alpha.dim():
            alpha = alpha.to(h.dtype).view(-1, *[1] * (h.dim() - 1))
        # Under autocast a kernel may end in a wider type than the layer whose output it joins.
        return (alpha * added).to(h.dtype)


class SeedBank(nn.Module):
    """All seeds of a site, by slot: y = h + sum over seeds of alpha * k(x, h).

    The sum starts from `h` itself, never scaled or detached, so the host's gradient is its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seeds = nn.ModuleDict()

    def __len__(self) -> int:
        return len(self.seeds)

    def plant(self, slot: int, seed: Seed) -> None:
        """Put a seed into a slot that is free."""
        self.seeds[str(slot)] = seed
        # Sums round by their order: it is that of the slots, which an export follows too.
        for name in sorted(self.seeds, key=int):
            self.seeds[name] = self.seeds.pop(name)

    def remove(self, slot: int) -> Seed:
        """Take the seed out of a slot and return it."""
        seed = self.seeds.pop(str(slot))
        assert isinstance(seed, Seed)
        return seed

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return `h` plus what every seed adds; `x` is the input of the site's layer."""
        if torch.compiler.is_compiling():
            return _apart(self, x, h)
        return self.grown(x, h)

    def grown(self, x: Tensor, h: Tensor) -> Tensor:
        """Return what `forward` does, as a host that is being compiled may not see it."""
        y = h
        for seed in self.seeds.values():
            y = y + seed(x, h)
        return y


# A compiled host calls the bank as it is: were kernels compiled into it, each that comes or goes
# would compile the host anew, seconds on the training thread, and the ninth for the last time.
# torch's own form of `torch.compiler.disable` that loads its compiler only where it is used.
_apart = _disable_dynamo(SeedBank.grown)
