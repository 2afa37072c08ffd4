"""Names of artifacts, equal in all stores: `<kernel_id>/<SHA-256 of the content>`."""

import re
from typing import Final

from esper.store.errors import KernelMissing
from esper.topics.codec import sha256_of

_KERNEL_ID: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[0-9a-f]{64}/[0-9a-f]{64}")


def name_of(kernel_id: str, data: bytes) -> str:
    """Return `<kernel_id>/<sha256>`, the name of an artifact.

    Raises:
        ValueError: `kernel_id` is no hexadecimal SHA-256, and so not safe in a path or key.
    """
    if not _KERNEL_ID.fullmatch(kernel_id):
        raise ValueError(f"{kernel_id!r} is no kernel id; give 64 lower-case hexadecimal digits")
    return f"{kernel_id}/{sha256_of(data)}"


def name_in(location: str, scheme: str) -> str:
    """Return the name in a location `<scheme>:<name>`.

    Raises:
        KernelMissing: the location has another scheme or an invalid name. Valid names cannot
            address anything outside the store.
    """
    found, _, name = location.partition(":")
    if found != scheme or not _NAME.fullmatch(name):
        raise KernelMissing(
            f"{location!r} is no location in a {scheme} store, "
            f"which has the form {scheme}:<kernel_id>/<sha256>"
        )
    return name
