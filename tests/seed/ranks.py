"""Several ranks on this machine: one process each, as `torchrun` starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240.0


def run_on_ranks(module: str, count: int, folder: Path, *words: str) -> None:
    """Run `python -m module FOLDER WORDS` on each of `count` ranks, and expect all to succeed.

    They meet over a file in the folder: a port could be taken.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "WORLD_SIZE": str(count)}
    meeting = f"file://{folder / 'meeting'}"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), *words],
            env={**environment, "RANK": str(rank), "MEETING": meeting},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=TIMEOUT_S)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    for rank, (process, words_of_it) in enumerate(zip(running, said, strict=True)):
        assert process.returncode == 0, f"rank {rank} failed:\n{words_of_it}"
