"""The rows of an experiment: one for every run, kept in a CSV file that is committed."""

import csv
import io
from collections.abc import Iterable
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.figures import RESULTS
from benchmarks.result import BenchmarkError

FOLDER: Final = RESULTS / "growth"
BETWEEN_KEPT: Final = "+"


class Case(NamedTuple):
    """One run to make: which control, on which task, from which seed."""

    suite: str
    task: str
    control: str
    seed: int


class Row(BaseModel):
    """What one run came to.

    Seconds are of its wall time: training itself, probing, and waiting, which is all else that
    growth did on the training thread; `compile_s` is what building the kernels that it could plant
    takes one process, and `cpu_s` the processor's time of the training process, which a busy
    machine does not stretch. `kept` are (site/blueprint) in the network at the end. `data_sha256`
    is of data that are not the same on every machine. `reached_s` is when a target was reached, of
    a run that has one, and `device` what it was on. A run that failed has an error, and nothing
    that it did not come to.
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
    run_id: str = ""
    reached_s: float | None = None
    device: str = ""
    data_sha256: str = ""
    error: str = ""

    @property
    def case(self) -> Case:
        """What was run."""
        return Case(self.suite, self.task, self.control, self.seed)

    def to_cells(self) -> dict[str, str]:
        """Return the row as text; nothing for what there is not."""
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
    def from_cells(cls, cells: dict[str, str]) -> "Row":
        """Return the row that was written as these cells.

        Raises:
            ValidationError: it is none.
        """
        values: dict[str, object] = {name: cell for name, cell in cells.items() if cell}
        values["kept"] = tuple(filter(None, cells.get("kept", "").split(BETWEEN_KEPT)))
        return cls.model_validate(values)


class Ledger:
    """The rows of one suite, in a file that is written anew, whole or not at all, after each run.

    A row stands for its case: one that is run again takes the place of the one before.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one.

        Raises:
            BenchmarkError: it is something else; the message names the line.
        """
        self.path = path
        self._rows = self._written()

    @classmethod
    def of(cls, suite: str) -> "Ledger":
        """Return the ledger of a suite that is committed."""
        return cls(FOLDER / f"{suite}.csv")

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order of their cases."""
        return tuple(self._rows[case] for case in sorted(self._rows))

    def get(self, case: Case) -> Row | None:
        """The row of a case, if it was run."""
        return self._rows.get(case)

    def keep(self, row: Row) -> None:
        """Put a row in, and write the file, with what other processes wrote to it meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            flock(lock, LOCK_EX)
            self._rows = self._written() | {row.case: row}
            part = self.path.with_name(f"{self.path.name}.part")
            part.write_text(as_csv(self.rows))
            part.replace(self.path)

    def _written(self) -> dict[Case, Row]:
        return {row.case: row for row in _read(self.path)} if self.path.exists() else {}


def as_csv(rows: Iterable[Row]) -> str:
    """Return rows as CSV with a head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_cells() for row in rows)
    return text.getvalue()


def _read(path: Path) -> Iterable[Row]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if set(reader.fieldnames or ("",)) - set(Row.model_fields):
            raise BenchmarkError(
                f"{path} has columns that no row has now; move it away, and run again"
            )
        for number, cells in enumerate(reader, start=2):
            try:
                yield Row.from_cells(cells)
            except ValidationError as error:
                raise BenchmarkError(f"{path}, line {number}: not a row: {error}") from error
