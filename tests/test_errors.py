"""Every exception of Esper's own derives from `esper.EsperError`."""

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Final

import esper
from esper.errors import EsperError

# Exceptions that steer a module's own control flow and never leave the module.
INTERNAL: Final = {
    "esper.audit.finding.Different": "ends the comparison at the first record that differs",
}


def own_exceptions() -> Iterator[type[BaseException]]:
    for module in pkgutil.walk_packages(esper.__path__, "esper."):
        if module.name.endswith(".__main__"):
            continue
        for value in vars(import_module(module.name)).values():
            if (
                inspect.isclass(value)
                and issubclass(value, BaseException)
                and value.__module__ == module.name
            ):
                yield value


def test_every_exception_derives_from_esper_error() -> None:
    found = {f"{error.__module__}.{error.__qualname__}": error for error in own_exceptions()}
    assert {name for name, error in found.items() if not issubclass(error, EsperError)} == set(
        INTERNAL
    )
    for folder in ("esper.topics.", "esper.workers.", "esper.training."):
        assert any(name.startswith(folder) for name in found), f"no exception found in {folder}"
