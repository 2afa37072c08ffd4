"""The file tier: one file per artifact under a directory, which can be shared."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from esper.store.errors import StoreUnavailable
from esper.store.naming import MAX_ARTIFACT_BYTES, KernelName, parse_name
from esper.store.tier import Entry

SUFFIX: Final = ".safetensors"
QUARANTINE: Final = "quarantine"
"""Folder of altered files under the root, named `<kernel_id>.<sha256>`."""


class FileTier:
    """Artifacts as `<root>/<kernel_id>/<sha256>.safetensors`."""

    kind = "file"
    in_process = False

    def __init__(self, root: Path) -> None:
        self.address = f"file:{root}"
        self._root = root

    def write(self, name: KernelName, data: bytes) -> None:
        """Write the artifact and rename it into place, so that readers see whole files only."""
        target = self._path(name)
        with self._errors("write a kernel under"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=target.parent, delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    # The caller announces the kernel next: the file must survive a crash.
                    os.fsync(file.fileno())
                    Path(file.name).rename(target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise

    def read(self, name: KernelName) -> bytes | None:
        """Return the bytes of the artifact's file, at most one more than an artifact can have."""
        with self._errors("read a kernel under"):
            try:
                with self._path(name).open("rb") as file:
                    return file.read(MAX_ARTIFACT_BYTES + 1)
            except FileNotFoundError:
                return None

    def quarantine(self, name: KernelName, found: bytes) -> None:
        """Move the file into the folder `quarantine`."""
        aside = self._root / QUARANTINE / f"{name.kernel_id}.{name.sha256}"

        def is_altered(file: Path) -> bool:
            with file.open("rb") as moved:
                return moved.read(len(found) + 1)[: len(found)] == found

        self._move_if(self._path(name), aside, is_altered)

    def delete(self, name: KernelName, *, stored_before_s: float | None = None) -> bool:
        """Delete the file, and the kernel's folder if it is empty then."""
        path = self._path(name)
        aside = path.with_suffix(".deleted")

        def is_old(file: Path) -> bool:
            return stored_before_s is None or file.stat().st_mtime < stored_before_s

        if not self._move_if(path, aside, is_old):
            return False
        with self._errors("delete a kernel under"):
            aside.unlink(missing_ok=True)
        with suppress(OSError):  # It holds another artifact.
            path.parent.rmdir()
        return True

    def entries(self) -> Iterator[Entry]:
        """Yield the artifacts by their files' names, sizes and times of modification."""
        with self._errors("list"):
            for path in self._root.glob(f"*/*{SUFFIX}"):
                name = parse_name(f"{path.parent.name}/{path.stem}")
                if name is not None:
                    try:
                        facts = path.stat()
                    except FileNotFoundError:  # Deleted meanwhile.
                        continue
                    yield Entry(name, facts.st_size, facts.st_mtime)

    def ping(self) -> None:
        """Check that the directory exists or can be made, and is writable."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot make {self._root} ({error}); set ESPER_KERNEL_STORE to another directory"
            ) from error
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnavailable(
                f"this user cannot read and write {self._root}; change its permissions"
            )

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, name: KernelName) -> Path:
        return self._root / name.kernel_id / f"{name.sha256}{SUFFIX}"

    def _move_if(self, path: Path, aside: Path, holds: Callable[[Path], bool]) -> bool:
        """Move a file aside; move it back if `holds` is false for it. Return whether it is aside.

        A concurrent `write` may replace the file before the move: then the condition is checked
        on the new file, which is not lost.
        """
        with self._errors("move a kernel under"):
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.rename(aside)
            except FileNotFoundError:
                return False
            if holds(aside):
                return True
            aside.rename(path)
            return False

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"cannot {action} {self._root} ({error}); check permissions and free space"
            ) from error
