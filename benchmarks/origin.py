"""The origin of a result: machine, commit, and whether the code differed from the commit."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
MEASURED_CODE = ("topics", "esper", "workers", "benchmarks/*.py", "experiments/*.py")


def machine() -> dict[str, Any]:
    """Return usable cores, processor, system, Python and torch."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """Return the abbreviated commit that is checked out; `unknown` outside a checkout."""
    return git("rev-parse", "--short=12", "HEAD") or "unknown"


def modified() -> bool:
    """Return whether the measured code differs from the commit."""
    return bool(git("status", "--porcelain", "--", *MEASURED_CODE))


def git(*arguments: str) -> str:
    """Return the output of a git command in this checkout; empty on failure."""
    ended = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
