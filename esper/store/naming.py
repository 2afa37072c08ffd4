"""Names of artifacts, equal in all tiers: `<kernel_id>/<SHA-256 of the content>`."""

import re
from typing import Final, NamedTuple

from esper.store.errors import KernelMissing
from esper.topics.codec import sha256_of

MAX_ARTIFACT_BYTES: Final = 32 << 20
"""No artifact is longer (docs/format.md); a longer entry is not read to its end."""

_KERNEL_ID: Final = re.compile(r"[0-9a-f]{64}")
_LOCATION: Final = re.compile(r"(?:(?:file|redis):)?([0-9a-f]{64})/([0-9a-f]{64})")


class KernelName(NamedTuple):
    """The name of an artifact; both fields are hexadecimal SHA-256 digests."""

    kernel_id: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.kernel_id}/{self.sha256}"


def name_of(kernel_id: str, data: bytes) -> KernelName:
    """Return the name of an artifact.

    Raises:
        ValueError: `kernel_id` is no hexadecimal SHA-256, and so not safe in a path or key.
    """
    if not _KERNEL_ID.fullmatch(kernel_id):
        raise ValueError(f"{kernel_id!r} is no kernel id; give 64 lower-case hexadecimal digits")
    return KernelName(kernel_id, sha256_of(data))


def name_at(location: str) -> KernelName:
    """Return the name in a location; earlier contracts put `file:` or `redis:` before it.

    Raises:
        KernelMissing: the location is malformed. Valid names cannot address anything outside of
            the store.
    """
    found = _LOCATION.fullmatch(location)
    if found is None:
        raise KernelMissing(
            f"no kernel at {location!r}: a location has the form <kernel_id>/<sha256>"
        )
    return KernelName(found[1], found[2])


def parse_name(text: str) -> KernelName | None:
    """Return the name written as `<kernel_id>/<sha256>`; None for any other text."""
    kernel_id, _, sha256 = text.partition("/")
    if _KERNEL_ID.fullmatch(kernel_id) and _KERNEL_ID.fullmatch(sha256):
        return KernelName(kernel_id, sha256)
    return None
