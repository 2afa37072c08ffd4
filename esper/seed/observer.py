"""Observe what a site's layer takes and returns in a forward pass, without its seeds."""

from typing import Any

from torch import Tensor, nn

from esper.seed.forward_adapters import (
    first_tensor,
    forward_channels_first,
    forward_first_of_tuple,
)
from esper.seed.site import Site


class SiteObserver:
    """Holds x and h of the next forward pass, in the layout that kernels expect."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seen: tuple[Tensor, Tensor] | None = None
        self._handle = site.layer.register_forward_pre_hook(self._on_call, with_kwargs=True)

    def stop(self) -> None:
        """Observe no more."""
        self._handle.remove()

    @property
    def seen(self) -> tuple[Tensor, Tensor]:
        """x (N, *x) and h (N, *h) of the last forward pass."""
        assert self._seen is not None, f"{self._site.name} did not run"
        return self._seen

    def _on_call(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        # Once more without the seeds, whose sum the layer's own result includes.
        h = type(layer).forward(layer, *args, **kwargs)
        x = first_tensor(args, kwargs)
        assert x is not None
        if self._site.adapter is forward_first_of_tuple:
            h = h[0]
        if self._site.adapter is forward_channels_first:
            x, h = x.mT, h.mT
        self._seen = x.detach(), h.detach()
