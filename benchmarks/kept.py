"""Reading and writing saved results: `results/NAME.json` of this package and of `experiments`."""

from pathlib import Path
from typing import Final

from benchmarks.origin import ROOT
from benchmarks.result import BenchmarkError, Result

BENCHMARKS: Final = "benchmarks"
EXPERIMENTS: Final = "experiments"
FOLDERS: Final[dict[str, Path]] = {
    package: ROOT / package / "results" for package in (BENCHMARKS, EXPERIMENTS)
}


def result_file(name: str, package: str = BENCHMARKS) -> Path:
    """Return the path of a saved result."""
    return FOLDERS[package] / f"{name}.json"


def save(result: Result, package: str = BENCHMARKS) -> None:
    """Write a result to its file."""
    result_file(result.name, package).write_text(result.to_json())


def kept_result(name: str, package: str = BENCHMARKS) -> Result:
    """Return a saved result.

    Raises:
        BenchmarkError: no result is saved, or it is from a quick run.
    """
    file, command = result_file(name, package), f"`python -m {package} {name} --save`"
    if not file.exists():
        raise BenchmarkError(f"no {file.name}; measure it with {command}")
    result = Result.model_validate_json(file.read_bytes())
    if result.quick:
        raise BenchmarkError(
            f"{file.name} is from a quick run, which measures nothing; measure it with {command}"
        )
    return result
