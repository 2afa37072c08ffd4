"""How an artifact is named in every store: by the kernel it is, then by its content."""

import re
from typing import Final

from esper.store.refusal import KernelMissing
from esper.topics.codec import sha256_of

_KERNEL_ID: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[0-9a-f]{64}/[0-9a-f]{64}")


def name_of(kernel_id: str, data: bytes) -> str:
    """Return `<kernel_id>/<sha256>`, the name of an artifact.

    Raises:
        ValueError: `kernel_id` is no SHA-256 in hexadecimal, and so safe in no path or key.
    """
    if not _KERNEL_ID.fullmatch(kernel_id):
        raise ValueError(f"{kernel_id!r} is no kernel id: 64 hexadecimal digits")
    return f"{kernel_id}/{sha256_of(data)}"


def name_in(location: str, scheme: str) -> str:
    """Return the name in a location `<scheme>:<name>`.

    Raises:
        KernelMissing: it is no location of a store of this scheme; nothing outside the store
            can be named.
    """
    found, _, name = location.partition(":")
    if found != scheme or not _NAME.fullmatch(name):
        raise KernelMissing(f"{location!r} is no location in a store of {scheme}")
    return name
