"""Groups of options as one dataclass parameter of a command."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from esper.training import GrowConfig


def config_help(field: str) -> str:
    """Return the description of a `GrowConfig` field, the help text of its option."""
    description = GrowConfig.model_fields[field].description
    if not description:
        raise ValueError(f"GrowConfig.{field} has no description; add one for the command line")
    return description


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose dataclass parameters are replaced by one option per field.

    Typer reads the signature of a command and does not support groups of options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    @wraps(command)
    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{f.name: given.pop(f.name) for f in fields(group)})
        command(**given)

    def parameters() -> Iterator[inspect.Parameter]:
        for name, parameter in inspect.signature(command).parameters.items():
            if name in groups:
                yield from _options(groups[name])
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                yield parameter.replace(kind=kind, annotation=hints[name])

    spread.__signature__ = inspect.Signature(list(parameters()))  # type: ignore[attr-defined]
    spread.__annotations__ = {p.name: p.annotation for p in parameters()}
    return spread


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
