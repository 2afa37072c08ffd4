"""One row per training run, in a CSV file that is committed."""

import csv
import io
from collections.abc import Iterable
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.kept import EXPERIMENTS, FOLDERS
from benchmarks.result import BenchmarkError

BETWEEN_KEPT: Final = "+"


class Case(NamedTuple):
    """One run to train: a control of a task, with a seed."""

    suite: str
    task: str
    control: str
    seed: int


class RunRow(BaseModel):
    """The outcome of one run; a failed run has `error` and no measurements.

    Wall time is split into `train_s`, `probe_s` and `wait_s`, the rest of growth on the training
    thread. `compile_s` is the time in which one process builds every kernel that the run could
    plant. `cpu_s` is CPU time of the training process, independent of other load.
    `trials` counts the plantings of a run with decisions, and `audition_cpu_s` is the CPU time of
    its auditions in other processes.
    `kept` are `site/blueprint` in the final network; `right`: the known answer is among them.
    `data_sha256` identifies data that differ between machines; `reached_s` is the time to the
    target loss, for suites with a target, and `device` the GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    task: str
    control: str
    seed: int
    commit: str
    test_accuracy: float | None = None
    test_loss: float | None = None
    probe_loss: float | None = None
    params: int | None = None
    steps: int | None = None
    train_s: float | None = None
    probe_s: float | None = None
    wait_s: float | None = None
    compile_s: float | None = None
    cpu_s: float | None = None
    kept: tuple[str, ...] = ()
    right: bool | None = None
    trials: int | None = None
    audition_cpu_s: float | None = None
    run_id: str = ""
    reached_s: float | None = None
    device: str = ""
    data_sha256: str = ""
    error: str = ""

    @property
    def case(self) -> Case:
        """The case of the run."""
        return Case(self.suite, self.task, self.control, self.seed)

    def to_cells(self) -> dict[str, str]:
        """Return the row as text; an empty cell for None."""
        cells = {}
        for name, value in self:
            if isinstance(value, tuple):
                value = BETWEEN_KEPT.join(value)
            elif isinstance(value, float):
                value = f"{value:.6g}"
            elif isinstance(value, bool):
                value = "yes" if value else "no"
            cells[name] = "" if value is None else str(value)
        return cells

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> "RunRow":
        """Return the row of CSV cells.

        Raises:
            ValidationError: a cell is missing or invalid.
        """
        values: dict[str, object] = {name: cell for name, cell in cells.items() if cell}
        values["kept"] = tuple(filter(None, cells.get("kept", "").split(BETWEEN_KEPT)))
        return cls.model_validate(values)


class Ledger:
    """The rows of one suite in a file that is replaced atomically after each run.

    There is one row per case: a repeated run replaces its row.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if it exists.

        Raises:
            BenchmarkError: the file is invalid; the message names the line.
        """
        self.path = path
        self._rows = self._written()

    @classmethod
    def of(cls, suite: str) -> "Ledger":
        """Return the committed ledger of a suite."""
        return cls(FOLDERS[EXPERIMENTS] / f"{suite}.csv")

    @property
    def rows(self) -> tuple[RunRow, ...]:
        """All rows, sorted by case."""
        return tuple(self._rows[case] for case in sorted(self._rows))

    def get(self, case: Case) -> RunRow | None:
        """Return the row of a case; None before its first run."""
        return self._rows.get(case)

    def keep(self, row: RunRow) -> None:
        """Add a row and write the file, merged with the rows that other processes wrote."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            flock(lock, LOCK_EX)
            self._rows = self._written() | {row.case: row}
            part = self.path.with_name(f"{self.path.name}.part")
            part.write_text(as_csv(self.rows))
            part.replace(self.path)

    def _written(self) -> dict[Case, RunRow]:
        return {row.case: row for row in _read(self.path)} if self.path.exists() else {}


def as_csv(rows: Iterable[RunRow]) -> str:
    """Return rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(RunRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_cells() for row in rows)
    return text.getvalue()


def _read(path: Path) -> Iterable[RunRow]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        unknown = set(reader.fieldnames or ("no header",)) - set(RunRow.model_fields)
        if unknown:
            raise BenchmarkError(
                f"{path} has unknown columns {', '.join(sorted(unknown))}; move it away, and run "
                "the suite again"
            )
        for number, cells in enumerate(reader, start=2):
            try:
                yield RunRow.from_cells(cells)
            except ValidationError as error:
                raise BenchmarkError(f"{path}, line {number}: not a row: {error}") from error
