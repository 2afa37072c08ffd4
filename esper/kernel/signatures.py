"""Verify Ed25519 signatures over the bytes of an artifact (RFC 8032)."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from esper.kernel.refusal import ArtifactRefused, BadSignature


class KeyUnusable(ArtifactRefused):
    """A key file is missing, or holds no key of the expected kind."""


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key in a PEM file.

    Raises:
        KeyUnusable: the file cannot be read or holds something else.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(
            f"{path} holds no usable public key ({error}); create keys with: esper keys create"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(f"{path} holds a key of another kind; Esper signs with Ed25519")
    return key


def verify(key: Ed25519PublicKey, data: bytes, signature: str) -> None:
    """Verify a hexadecimal signature of `data` by `key`.

    Raises:
        BadSignature: the signature is malformed, of other bytes, or by another key.
    """
    try:
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(
            "the signature is not of these bytes by the trusted key; "
            "the artifact was altered, or ESPER_TRUSTED_KEY_FILE belongs to another deployment"
        ) from error
