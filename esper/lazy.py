"""Package fronts whose names resolve on first use, so that importing one loads no torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` (PEP 562) for the names in `modules`.

    `modules` has, for each exported name, the module that defines it: absolute, or relative to
    `package` with a leading dot.
    """

    def resolve(name: str) -> Any:
        if (module := modules.get(name)) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module, package), name)

    return resolve
