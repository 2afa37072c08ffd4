"""The file store: one file per artifact under a directory, which can be shared."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from esper.store.errors import KernelMissing, StoreUnavailable
from esper.store.naming import name_in, name_of

SCHEME: Final = "file"
SUFFIX: Final = ".safetensors"


class FileStore:
    """Artifacts as `<root>/<kernel_id>/<sha256>.safetensors`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, kernel_id: str, data: bytes) -> str:
        """Write the artifact and rename it into place, so that readers see whole files only."""
        name = name_of(kernel_id, data)
        target = self._path(name)
        try:
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
        except OSError as error:
            raise StoreUnavailable(
                f"cannot write a kernel under {self._root} ({error}); "
                "check permissions and free space"
            ) from error
        return f"{SCHEME}:{name}"

    def get(self, location: str) -> bytes:
        """Return the bytes of the file at a location."""
        path = self._path(name_in(location, SCHEME))
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise KernelMissing(
                f"no kernel at {location} under {self._root}; "
                "use the store that the compile worker writes to"
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"cannot read {path} ({error}); check its permissions"
            ) from error

    def ping(self) -> None:
        """Check that the directory exists or can be made, and is writable."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot make {self._root} ({error}); set ESPER_STORE_URL to another directory"
            ) from error
        if not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnavailable(
                f"this user cannot read and write {self._root}; change its permissions"
            )

    def _path(self, name: str) -> Path:
        return self._root / f"{name}{SUFFIX}"
