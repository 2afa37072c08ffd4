"""What each seed contributes: leave-one-out on held-out samples, all seeds in one forward pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.seed import Seed, Site
from esper.seed.eval_mode import evaluating
from esper.topics.models import SeedState

LossFn = Callable[[Tensor, Tensor], Tensor]
ON_TRIAL = (SeedState.BLENDING, SeedState.ACTIVE)


class ProbeRefused(ValueError):
    """A probe batch on which nothing can be measured."""


class ProbeResult(NamedTuple):
    """Probe loss of the model as it is, and each seed's contribution, by (site, slot).

    None stands for a loss that is not finite.
    """

    loss: float | None
    contributions: dict[tuple[str, int], float | None]


class Probe:
    """A held-out batch: inputs (N, ..) and targets (N, ..), never from the test set."""

    def __init__(self, batch: tuple[Tensor, Tensor], loss_fn: LossFn) -> None:
        self.inputs, self.targets = batch
        self._loss_fn = loss_fn
        if len(self.inputs) != len(self.targets) or not len(self.inputs):
            raise ProbeRefused(
                f"the probe has {len(self.inputs)} inputs and {len(self.targets)} targets; "
                "give the same number of both, at least one"
            )
        for what, values in (("inputs", self.inputs), ("targets", self.targets)):
            if not bool(values.isfinite().all()):
                raise ProbeRefused(
                    f"the probe's {what} hold values that are not finite, so that no loss on it "
                    "would be; give samples without them"
                )

    def measure(self, model: nn.Module, sites: Mapping[str, Site]) -> ProbeResult:
        """Measure the loss, and for each seed on trial the loss without it minus the loss with it.

        All variants run as one batch of (1 + seeds) * N samples in evaluation mode, told apart by
        a per-sample alpha; the model is left as it was found.

        Raises:
            ProbeRefused: the model or the loss gives something that cannot be measured.
        """
        trials = [
            (site.name, slot.index, seed)
            for site in sites.values()
            for slot, seed in site.seeds()
            if slot.state in ON_TRIAL
        ]
        losses = self._losses(model, [seed for _, _, seed in trials])
        whole = losses[0]
        return ProbeResult(
            loss=whole,
            contributions={
                (site, slot): _difference(without, whole)
                for (site, slot, _), without in zip(trials, losses[1:], strict=True)
            },
        )

    def _losses(self, model: nn.Module, left_out: Sequence[Seed]) -> list[float | None]:
        variants = 1 + len(left_out)
        present = [seed.alpha for seed in left_out]
        try:
            for variant, seed in enumerate(left_out, start=1):
                seed.alpha = self._alpha_without(seed.alpha, variant, variants)
            with evaluating(model), torch.no_grad():
                outputs = self._outputs(model, variants)
                return [_finite(self._loss_fn(output, self.targets)) for output in outputs]
        finally:
            for seed, alpha in zip(left_out, present, strict=True):
                seed.alpha = alpha
            # Casts cached under no_grad would cut the next training step off from the weights.
            torch.clear_autocast_cache()

    def _outputs(self, model: nn.Module, variants: int) -> tuple[Tensor, ...]:
        batch = self.inputs.repeat(variants, *[1] * (self.inputs.dim() - 1))
        output = model(batch)
        if not isinstance(output, Tensor) or len(output) != len(batch):
            raise ProbeRefused(
                "the model's output is not one tensor with a row for each sample; "
                "grow a module whose forward returns one"
            )
        return output.chunk(variants)

    def _alpha_without(self, alpha: Tensor, variant: int, variants: int) -> Tensor:
        """One alpha per sample: 0 in the variant that leaves the seed out."""
        count = len(self.inputs)
        per_sample = alpha.expand(variants * count).clone()
        per_sample[variant * count : (variant + 1) * count] = 0.0
        return per_sample


def _finite(loss: object) -> float | None:
    if not isinstance(loss, Tensor):
        raise ProbeRefused(
            f"loss_fn gives {type(loss).__name__}; it must give the mean loss as a tensor"
        )
    if loss.numel() != 1:
        raise ProbeRefused(
            f"loss_fn gives {tuple(loss.shape)}; it must give the mean loss, one number"
        )
    value = float(loss)
    return value if math.isfinite(value) else None


def _difference(without: float | None, whole: float | None) -> float | None:
    return None if without is None or whole is None else without - whole
