"""The progress display of a training: a bar on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from esper.workers.cli.interrupts import Check, interruptible
from esper.workers.cli.output import console

LINES = 6
"""How many lines of progress are printed where nobody watches a bar."""


class TrainingProgress:
    """What a training says of itself while it runs."""

    def __init__(
        self, epochs: int, check: Check, advance: Callable[[float], None] | None, quiet: bool
    ) -> None:
        self._epochs = epochs
        self._check = check
        self._advance = advance
        self._quiet = quiet

    def started(self, run_id: str) -> None:
        """The run has its id."""
        self.note(f"run {run_id}: training, kernels compile meanwhile")

    def epoch(self, epoch: int, loss: float) -> None:
        """One more pass over the training set is done, with this loss on its last batch.

        Raises:
            KeyboardInterrupt: the training was asked to end.
        """
        self._check()
        if self._advance is not None:
            self._advance(loss)
        elif epoch % max(1, self._epochs // LINES) == 0:
            self.note(f"epoch {epoch} of {self._epochs}, loss {loss:.4f}")

    def note(self, line: str) -> None:
        """Say one line."""
        if not self._quiet:
            console.print(line, soft_wrap=True)


@contextmanager
def training_progress(
    epochs: int, check: Check, *, quiet: bool = False
) -> Iterator[TrainingProgress]:
    """Show progress while the block runs; `quiet` shows nothing. Each epoch makes the check."""
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
    epochs: int, last_words: Callable[[], str], *, quiet: bool = False
) -> Iterator[TrainingProgress]:
    """Show progress while the block runs; Ctrl-C and SIGTERM end it with words and exit code 130.

    Raises:
        Exit: it was asked to end.
    """
    try:
        with (
            interruptible() as check,
            training_progress(epochs, check, quiet=quiet) as progress,
        ):
            yield progress
    except KeyboardInterrupt:
        console.print(last_words())
        raise typer.Exit(130) from None
