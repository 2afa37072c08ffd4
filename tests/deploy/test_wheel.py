"""The wheel: `esper` is its only top-level package, and it works where the repository is not.

The wheel is built from copies of what the Dockerfile copies, so that the links `esper/topics` and
`esper/workers` are followed as in the image, and nothing is left in the working tree.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "topics", "esper", "workers")
TIMEOUT_S = 300

SCRIPT = """
import json, sys
from importlib.metadata import distribution
import topics, workers
import esper, esper.topics, esper.workers.cli
print(json.dumps({m.__name__: m.__file__ for m in (topics, workers, esper, esper.topics)}))
sys.stdout.flush()
(entry_point,) = distribution("esper-grow").entry_points.select(name="esper")
sys.argv = ["esper", "--help"]
entry_point.load()()
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Return the output of a command that must succeed, started without the repository's path."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` would install."""
    tree, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (root / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, tree / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(root / name, tree)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", target, ".", cwd=tree)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def recorded(wheel: Path) -> set[str]:
    """The paths in the wheel's RECORD, without those of its own metadata."""
    with ZipFile(wheel) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        rows = csv.reader(archive.read(record).decode().splitlines())
        return {path for path, *_ in rows if not path.startswith(f"{Path(record).parent}/")}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with the wheel in it.

    Dependencies come from the current environment, by a path entry after the wheel's own: the
    `.pth` files there, an editable install of this repository among them, are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    with ZipFile(wheel) as archive:
        archive.extractall(packages)
    dependencies = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder / "bin" / "python"


def test_esper_is_the_only_top_level_package(recorded: set[str]) -> None:
    assert {path.split("/")[0] for path in recorded} == {"esper"}


def test_every_source_file_is_in_the_wheel(recorded: set[str], root: Path) -> None:
    def sources(folder: Path) -> set[Path]:
        patterns = ("*.py", "py.typed", "catalog/*.json", "migrations/*.sql", "acl.toml")
        found = [path for pattern in patterns for path in folder.rglob(pattern)]
        return {path.relative_to(folder) for path in found}

    expected = {
        f"{prefix}/{path.as_posix()}"
        for name, prefix in (
            ("esper", "esper"),
            ("topics", "esper/topics"),
            ("workers", "esper/workers"),
        )
        for path in sources(root / name)
    }
    assert recorded == expected


def test_a_script_beside_modules_named_topics_and_workers_imports_both(
    python: Path, tmp_path: Path
) -> None:
    for name in ("topics", "workers"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "script.py").write_text(SCRIPT)
    files, _, help_text = run(python, "script.py", cwd=tmp_path).partition("\n")
    found = {name: Path(file) for name, file in json.loads(files).items()}
    packages = python.parents[1] / "lib"
    assert found["topics"] == tmp_path / "topics.py"
    assert found["workers"] == tmp_path / "workers.py"
    assert found["esper"].is_relative_to(packages)
    assert found["esper.topics"].is_relative_to(packages)
    assert "esper demo" in help_text
