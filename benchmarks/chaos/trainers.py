"""Trainers that are started again after each fault, until they may end."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

EPOCHS: Final = 8
PAUSE_S: Final = 0.5
END_LIMIT_S: Final = 600.0
"""Longest wait for the last run, in seconds: on a busy machine too, it is complete by then."""


class Trainer:
    """Trains runs of the digits task one after another; a run that was interrupted is resumed."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._train, name=f"chaos-{name}", daemon=True)
        self.completed = 0
        self.failure: str | None = None
        """Why the last run is not complete; None if it is."""

    def start(self) -> None:
        """Start the first run."""
        self._thread.start()

    def end(self) -> None:
        """Return when the present run is complete; no further one is started.

        A run that cannot be completed, such as one that is refused whenever it is resumed, ends
        after `END_LIMIT_S` as a failure.
        """
        self._ending.set()
        self._thread.join(END_LIMIT_S)
        if self._thread.is_alive():
            self.give_up(f"{self.name} did not complete its run within {END_LIMIT_S:g} s")
            self._thread.join()

    def give_up(self, why: str) -> None:
        """Start no further process, and kill the present one, if one runs."""
        self.failure = why
        if self._process is not None:
            self._process.kill()

    def pid(self) -> int | None:
        """Return the pid of the process that trains now."""
        return None if self._process is None else self._process.pid

    def is_training(self) -> bool:
        """Return whether a process trains now."""
        return self._process is not None and self._process.poll() is None

    def _train(self) -> None:
        seed = 0
        while self.failure is None and (not self._ending.is_set() or self._is_interrupted(seed)):
            if self._run_process(seed) == 0 and not self._is_interrupted(seed):
                self.completed += 1
                seed += 1
            elif not self._is_interrupted(seed):
                # It had no checkpoint yet, so its run can never be closed: the next is another.
                seed += 1
            threading.Event().wait(PAUSE_S)

    def _is_interrupted(self, seed: int) -> bool:
        return self._checkpoint(seed).exists()

    def _checkpoint(self, seed: int) -> Path:
        return self._folder / f"{self.name}-{seed}.pt"

    def _run_process(self, seed: int) -> int:
        # Trainers have machines of their own in use; here they take what the workers leave.
        command = ["nice", "-n", "19", sys.executable]
        command += ["-m", "esper.workers", "train", "digits", "--json"]
        options = {
            "--epochs": EPOCHS,
            "--seed": seed,
            "--checkpoint": self._checkpoint(seed),
            "--export": self._folder / "grown",
        }
        for name, value in options.items():
            command += [name, str(value)]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
            return self._process.wait()
