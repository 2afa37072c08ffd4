"""Create, load and rotate a deployment's keys, as PEM files in one folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from esper.signing.errors import KeysExist, KeyUnusable
from esper.signing.purpose import Purpose
from esper.signing.trusted_keys import fingerprint_of, read_public_keys

PRIVATE_KEY_FILE: Final = "signing-key.pem"
NEXT_PRIVATE_KEY_FILE: Final = "next-signing-key.pem"
PUBLIC_KEY_FILE: Final = "trusted-key.pem"

PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644


class SigningKey:
    """A private key; its repr shows the fingerprint only."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"SigningKey({self.fingerprint})"

    @classmethod
    def load(cls, file: Path) -> "SigningKey":
        """Return the private key in a PEM file.

        Raises:
            KeyUnusable: the file cannot be read or holds something else.
        """
        try:
            key = load_pem_private_key(file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyUnusable(
                f"{file} holds no usable private key ({error}); create keys with: esper keys create"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"{file} holds a key of another kind; Esper signs with Ed25519")
        return cls(key)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the public key."""
        return fingerprint_of(self._key.public_key())

    def sign(self, purpose: Purpose, data: bytes) -> str:
        """Return the hexadecimal signature of `data` for one purpose."""
        return self._key.sign(purpose.message(data)).hex()


@dataclass(frozen=True, slots=True)
class KeyPaths:
    """The files of a deployment's keys; only compile and bandit workers may read the private one.

    `public` holds every trusted key, one PEM block after the other.
    """

    private: Path
    public: Path

    @classmethod
    def in_folder(cls, directory: Path) -> "KeyPaths":
        """Return the paths in a folder of keys."""
        return cls(directory / PRIVATE_KEY_FILE, directory / PUBLIC_KEY_FILE)


def create_keys(directory: Path) -> KeyPaths:
    """Create a pair of keys; the private one is readable by its owner only.

    Raises:
        KeysExist: one of the two files exists.
    """
    paths = KeyPaths.in_folder(directory)
    for path in (paths.private, paths.public):
        if path.exists():
            raise KeysExist(f"{path} exists; `esper keys rotate` replaces it")
    key = Ed25519PrivateKey.generate()
    directory.mkdir(parents=True, exist_ok=True)
    _write_new(paths.private, _private_pem(key), PRIVATE_MODE)
    _write_new(paths.public, _public_pem(key.public_key()), PUBLIC_MODE)
    return paths


def prepare_rotation(directory: Path) -> str:
    """Create the next signing key and trust it beside the present ones; return its fingerprint.

    A next key that exists already is kept.

    Raises:
        KeyUnusable: the folder holds no usable keys.
    """
    paths, next_file = KeyPaths.in_folder(directory), directory / NEXT_PRIVATE_KEY_FILE
    trusted = read_public_keys(paths.public)
    if next_file.exists():
        return SigningKey.load(next_file).fingerprint
    key = Ed25519PrivateKey.generate()
    # Trusted before it can sign anything.
    _replace(paths.public, _public_pem(*trusted, key.public_key()), PUBLIC_MODE)
    _write_new(next_file, _private_pem(key), PRIVATE_MODE)
    return fingerprint_of(key.public_key())


def rotate_keys(directory: Path) -> str:
    """Make the next key the signing key, and prepare it first if need be; return its fingerprint.

    The old key stays trusted until `retire_key`; its private half is deleted.

    Raises:
        KeyUnusable: the folder holds no usable keys.
    """
    fingerprint = prepare_rotation(directory)
    next_file = directory / NEXT_PRIVATE_KEY_FILE
    next_file.replace(KeyPaths.in_folder(directory).private)
    return fingerprint


def signing_states(directory: Path) -> list[tuple[str, str]]:
    """Return each trusted key's fingerprint, and whether it is `signing`, `next` or only `trusted`.

    Raises:
        KeyUnusable: the folder holds no usable keys.
    """
    paths, next_file = KeyPaths.in_folder(directory), directory / NEXT_PRIVATE_KEY_FILE
    states = {
        SigningKey.load(file).fingerprint: state
        for file, state in ((paths.private, "signing"), (next_file, "next"))
        if file.exists()
    }
    trusted = map(fingerprint_of, read_public_keys(paths.public))
    return [(fingerprint, states.get(fingerprint, "trusted")) for fingerprint in trusted]


def retire_key(directory: Path, fingerprint: str) -> None:
    """Trust a key no longer: whatever it signed is refused from now on.

    Raises:
        KeyUnusable: the key is not trusted, or signs now, or will sign next.
    """
    paths = KeyPaths.in_folder(directory)
    trusted = read_public_keys(paths.public)
    kept = tuple(key for key in trusted if fingerprint_of(key) != fingerprint)
    if len(kept) == len(trusted):
        raise KeyUnusable(f"{paths.public} holds no key {fingerprint}; see: esper keys list")
    for file in (paths.private, directory / NEXT_PRIVATE_KEY_FILE):
        if file.exists() and SigningKey.load(file).fingerprint == fingerprint:
            raise KeyUnusable(
                f"{fingerprint} is the key in {file}; rotate first: esper keys rotate"
            )
    _replace(paths.public, _public_pem(*kept), PUBLIC_MODE)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(*keys: Ed25519PublicKey) -> bytes:
    return b"".join(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    # The mode applies from creation, so no other user can ever read the key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Replace a file at once: a process that reads it meanwhile gets the old or the new keys."""
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(mode)
    Path(file.name).replace(path)
