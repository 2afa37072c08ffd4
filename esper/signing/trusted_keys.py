"""The public keys that a process trusts, from one PEM file."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from esper.signing.errors import BadSignature, KeyUnusable
from esper.signing.purpose import Purpose

_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.DOTALL)

FINGERPRINT_CHARS: Final = 16


class TrustedKeys:
    """The public keys in a PEM file, each of which may have signed; thread-safe.

    The file is read again when it has changed: a running process follows a rotation of keys.
    """

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            KeyUnusable: the file cannot be read, or holds anything but Ed25519 public keys.
        """
        self._file = file
        self._version = _version_of(file)
        self._keys = read_public_keys(file)

    def verify(self, purpose: Purpose, data: bytes, signature: str) -> None:
        """Verify a hexadecimal signature of `data`.

        Raises:
            BadSignature: the signature is malformed, of other bytes, for another purpose, or by
                another key.
        """
        self._read_again_if_changed()
        if not self._is_valid(purpose, data, signature):
            raise BadSignature(
                f"the signature is not of this {purpose} by a trusted key: it was altered, or "
                f"{self._file.name} (ESPER_TRUSTED_KEY_FILE) belongs to another deployment"
            )

    def _is_valid(self, purpose: Purpose, data: bytes, signature: str) -> bool:
        try:
            signature_bytes = bytes.fromhex(signature)
        except ValueError:
            return False
        message = purpose.message(data)
        return any(_signed(key, message, signature_bytes) for key in self._keys)

    def _read_again_if_changed(self) -> None:
        """Read the file again if it has changed; an unusable file leaves the keys as they are."""
        version = _version_of(self._file)
        if version == self._version:
            return
        with suppress(KeyUnusable):
            self._keys = read_public_keys(self._file)
            self._version = version


def fingerprint_of(key: Ed25519PublicKey) -> str:
    """Return the first hexadecimal digits of the SHA-256 of a key's 32 bytes."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:FINGERPRINT_CHARS]


def read_public_keys(file: Path) -> tuple[Ed25519PublicKey, ...]:
    """Return the public keys in a PEM file, at least one.

    Raises:
        KeyUnusable: the file cannot be read, or holds anything but Ed25519 public keys.
    """
    try:
        blocks = [match[0] for match in _PEM_BLOCK.finditer(file.read_bytes())]
        keys = tuple(map(load_pem_public_key, blocks))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(
            f"{file} holds no usable public key ({error}); create keys with: esper keys create"
        ) from error
    if not keys:
        raise KeyUnusable(
            f"{file} holds no public key in PEM format; create keys with: esper keys create"
        )
    found = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
    if len(found) < len(keys):
        raise KeyUnusable(f"{file} holds a key of another kind; Esper signs with Ed25519")
    return found


def _signed(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _version_of(file: Path) -> tuple[int, ...] | None:
    """Return what changes when the file is written or replaced; None if it cannot be read."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
