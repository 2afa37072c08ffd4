"""Timing several calls against each other, interleaved and in shuffled order."""

import random
from collections.abc import Callable, Mapping
from time import perf_counter

WARMING_ROUNDS = 5


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, repeats: int = 1
) -> dict[str, list[float]]:
    """Return seconds per call of each function, one value per round.

    A round calls each function `repeats` times in a row. The order is shuffled every round,
    because a call finds colder caches after a heavy neighbour.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    for _ in range(WARMING_ROUNDS + rounds):
        shuffle(order)
        for name in order:
            taken[name].append(_seconds(calls[name], repeats))
    return {name: values[WARMING_ROUNDS:] for name, values in taken.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats


def scaled(values: list[float], factor: float) -> list[float]:
    """Return seconds in another unit: factor 1e3 for ms, 1e6 for µs."""
    return [value * factor for value in values]
