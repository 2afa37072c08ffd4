"""Options that belong together, as one parameter of the commands that take them."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with each parameter that is a dataclass of options spread out into them.

    Typer, which reads signatures, has no notion of a group of its own.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    @wraps(command)
    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        command(**given)

    def parameters() -> Iterator[inspect.Parameter]:
        for name, parameter in inspect.signature(command).parameters.items():
            if name in groups:
                yield from _options(groups[name])
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                yield parameter.replace(kind=kind, annotation=hints[name])

    spread.__signature__ = inspect.Signature(list(parameters()))  # type: ignore[attr-defined]
    spread.__annotations__ = {one.name: one.annotation for one in parameters()}
    return spread


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
