"""Before and after a change: the same benchmark alternately in two checkouts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.origin import ROOT, commit, machine, modified
from benchmarks.result import BenchmarkError, Result, figure


def compare(before: Path, name: str, pairs: int, *, quick: bool = False) -> Result:
    """Return after ÷ before of every figure's median, over `pairs` runs in each checkout.

    This checkout is "after". The order alternates from pair to pair. A figure whose median is 0
    before is left out.

    Raises:
        BenchmarkError: a run failed, or the two checkouts share no figure.
    """
    sides: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    checkouts = {"before": before.resolve(), "after": ROOT}
    for pair in range(pairs):
        for side in ("before", "after") if pair % 2 == 0 else ("after", "before"):
            sides[side].append(_medians(checkouts[side], name, quick))
    shared = [
        key
        for key in sides["after"][0]
        if all(key in run for runs in sides.values() for run in runs)
        and all(run[key]["median"] for run in sides["before"])
    ]
    if not shared:
        raise BenchmarkError(f"{name}: the checkouts share no figure; compare another benchmark")
    return Result(
        name=f"{name}: after ÷ before",
        quick=quick,
        machine=machine(),
        commit=commit(),
        modified=modified(),
        parameters={"pairs": pairs},
        figures=tuple(_ratio(key, sides) for key in shared),
    )


def _ratio(key: str, sides: dict[str, list[dict[str, Any]]]) -> Any:
    before, after = ([run[key]["median"] for run in sides[side]] for side in ("before", "after"))
    ratios = [ours / theirs for ours, theirs in zip(after, before, strict=True)]
    unit = sides["after"][0][key]["unit"]
    return figure(key, key, f"÷ ({unit})", ratios, sides={"after": after, "before": before})


def _medians(checkout: Path, name: str, quick: bool) -> dict[str, Any]:
    """Return the figures of one run in a process of its own, by key."""
    command = [sys.executable, "-m", "benchmarks", name, "--json", *(["--quick"] if quick else [])]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    run = subprocess.run(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode != 0:
        raise BenchmarkError(f"{name} failed in {checkout} with exit code {run.returncode}")
    return {entry["key"]: entry for entry in json.loads(run.stdout)["figures"]}
