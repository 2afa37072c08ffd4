"""Progress of a training: a bar on a terminal, otherwise a few lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from esper.workers.cli.interrupts import Check, interruptible
from esper.workers.cli.output import console

LINES = 6
"""Progress lines printed when the console is not a terminal."""


class TrainingProgress:
    """Reports the progress of a training to the console."""

    def __init__(
        self, epochs: int, check: Check, advance: Callable[[float], None] | None, quiet: bool
    ) -> None:
        self._epochs = epochs
        self._check = check
        self._advance = advance
        self._quiet = quiet

    def started(self, run_id: str) -> None:
        """Report that the run has started."""
        self.note(f"run {run_id}: training while kernels compile")

    def epoch(self, epoch: int, loss: float) -> None:
        """Report a finished pass over the training set; `loss` is that of its last batch.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM was received.
        """
        self._check()
        if self._advance is not None:
            self._advance(loss)
        elif epoch % max(1, self._epochs // LINES) == 0:
            self.note(f"epoch {epoch} of {self._epochs}, loss {loss:.4f}")

    def note(self, line: str) -> None:
        """Print one line."""
        if not self._quiet:
            console.print(line, soft_wrap=True)


@contextmanager
def training_progress(
    epochs: int, check: Check, *, quiet: bool = False
) -> Iterator[TrainingProgress]:
    """Show progress while the block runs, unless `quiet`; call `check` after each epoch."""
    if quiet or not console.is_terminal:
        yield TrainingProgress(epochs, check, None, quiet)
        return
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("training", total=epochs, loss=float("nan"), visible=False)

        def advance(loss: float) -> None:
            bar.update(task, advance=1, loss=loss, visible=True)

        yield TrainingProgress(epochs, check, advance, quiet)


@contextmanager
def stoppable_training(
    epochs: int, stop_message: Callable[[], str], *, quiet: bool = False
) -> Iterator[TrainingProgress]:
    """Show progress while the block runs; on Ctrl-C and SIGTERM print a message and exit with 130.

    Raises:
        Exit: Ctrl-C or SIGTERM was received.
    """
    try:
        with (
            interruptible() as check,
            training_progress(epochs, check, quiet=quiet) as progress,
        ):
            yield progress
    except KeyboardInterrupt:
        console.print(stop_message())
        raise typer.Exit(130) from None
