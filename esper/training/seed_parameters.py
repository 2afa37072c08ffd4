"""Seed parameters in training: members of the optimizer, and of the gradient synchronizer."""

from collections.abc import Callable, Mapping

from torch.optim import Optimizer

from esper.kernel import Kernel
from esper.seed import STREAMS, GradientSynchronizer, Seed, Site
from esper.training.optimizer import OptimizerMembership
from esper.training.transaction import Transaction


class SeedParameters:
    """Adds the parameters of planted seeds to training and removes those of removed seeds.

    Over several ranks `synchronizer` averages their gradients; it is None in a single process.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        membership: OptimizerMembership,
        synchronizer: GradientSynchronizer | None = None,
    ) -> None:
        """Raise ParameterUntrained if the optimizer does not train the layer of a site."""
        for site in sites.values():
            membership.check(site.name, site.layer)
        self._sites = sites
        self._membership = membership
        self._synchronizer = synchronizer

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that trains the seeds."""
        return self._membership.optimizer

    def optimizer_stepped(self) -> bool:
        """Return whether the optimizer has taken a step since the last call."""
        return self._membership.stepped()

    def before_next_step(self, act: Callable[[Optimizer], None]) -> None:
        """Call `act` once, when the optimizer begins its next step."""
        self._membership.before_next_step(act)

    def set_optimizer(self, membership: OptimizerMembership) -> None:
        """Train all seeds, present and future, with another optimizer.

        Raises:
            ParameterUntrained: the optimizer does not train the layer of a site; nothing changed.
        """
        for site in self._sites.values():
            membership.check(site.name, site.layer)
        for site in self._sites.values():
            for slot, seed in site.seeds():
                names = seed.named_parameters(prefix=site.module_path(slot.index))
                membership.add(site.name, site.layer, names)
        self._membership.close()
        self._membership = membership

    def check(self, site: Site) -> None:
        """Raise ParameterUntrained unless the optimizer trains the layer of a site."""
        self._membership.check(site.name, site.layer)

    def trains_all_of(self, site: Site) -> bool:
        """Return whether the optimizer trains every parameter of a site's own layer."""
        return self._membership.trains(site.layer.parameters(recurse=False))

    def position(self, seed: Seed) -> tuple[int, int]:
        """Return a seed's position in the optimizer: (index of its group, index in the group)."""
        return self._membership.where(seed.parameters())

    def plant(self, site: Site, index: int, kernel: Kernel, transaction: Transaction) -> Seed:
        """Plant a kernel in slot `index` of a site, trained as the site's layer is; return it."""
        seed = Seed(kernel).to(next(site.layer.parameters()).device)
        STREAMS.record_stream(seed)
        transaction.save(site)
        site.plant(index, seed)
        names = seed.named_parameters(prefix=site.module_path(index))
        self._membership.add(site.name, site.layer, names, transaction)
        if self._synchronizer is not None:
            transaction.save(self._synchronizer)
            self._synchronizer.add(seed.parameters())
        return seed

    def remove(self, seed: Seed, transaction: Transaction) -> None:
        """Stop training a seed that has left the model."""
        self._membership.remove(seed.parameters(), transaction)
        if self._synchronizer is not None:
            transaction.save(self._synchronizer)
            self._synchronizer.remove(seed.parameters())

    def close(self) -> None:
        """Remove all hooks from the optimizer and from the model's parameters."""
        self._membership.close()
        if self._synchronizer is not None:
            self._synchronizer.close()
