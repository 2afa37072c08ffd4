"""Create and load this deployment's keys, and sign its artifacts (Ed25519, RFC 8032)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from esper.kernel import KeyUnusable

PRIVATE_KEY_FILE: Final = "signing-key.pem"
PUBLIC_KEY_FILE: Final = "trusted-key.pem"


class KeysExist(KeyUnusable):
    """A key file exists; overwriting it would invalidate every kernel signed with the old key."""


@dataclass(frozen=True, slots=True)
class KeyPaths:
    """The files of a key pair; only compile workers may read the private one."""

    private: Path
    public: Path


def create_keys(directory: Path) -> KeyPaths:
    """Create a pair of keys as PEM files; the private one is readable by its owner only.

    Raises:
        KeysExist: one of the two files exists.
    """
    paths = KeyPaths(directory / PRIVATE_KEY_FILE, directory / PUBLIC_KEY_FILE)
    for path in (paths.private, paths.public):
        if path.exists():
            raise KeysExist(f"{path} exists; move it away to replace it")
    key = Ed25519PrivateKey.generate()
    directory.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(paths.private, private, mode=0o600)
    _write_new(paths.public, public, mode=0o644)
    return paths


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a PEM file.

    Raises:
        KeyUnusable: the file cannot be read or holds something else.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(
            f"{path} holds no usable private key ({error}); create keys with: esper keys create"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path} holds a key of another kind; Esper signs with Ed25519")
    return key


def sign(key: Ed25519PrivateKey, data: bytes) -> str:
    """Return the hexadecimal signature of an artifact's bytes."""
    return key.sign(data).hex()


def _write_new(path: Path, data: bytes, mode: int) -> None:
    # The mode applies from creation, so no other user can ever read the key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
