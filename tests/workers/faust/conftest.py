"""The scenario fixture of the guards' tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .scenario import Scenario


@pytest.fixture
def scenario(kafka: Any, tmp_path: Path) -> Iterator[Scenario]:
    """Return the scenario of one test on the session's broker."""
    opened = Scenario(kafka.bootstrap_servers, tmp_path)
    try:
        yield opened
    finally:
        opened.close()
