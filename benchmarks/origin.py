"""Where a result comes from: the machine it was measured on, and the code it was measured of."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
MEASURED_CODE = ("topics", "esper", "workers", "benchmarks/*.py")


def machine() -> dict[str, Any]:
    """Return cores that this process may use, processor, Python and torch."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """Return the commit that is checked out, abbreviated; `unknown` outside a checkout."""
    return _git("rev-parse", "--short=12", "HEAD") or "unknown"


def modified() -> bool:
    """Whether the code that a benchmark runs differs from the commit."""
    return bool(_git("status", "--porcelain", "--", *MEASURED_CODE))


def _git(*arguments: str) -> str:
    ended = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
