"""Signatures of whole events: announcements of kernels, and their revocations."""

from typing import Final, TypeVar

from esper.kernel.refusal import ArtifactRefused
from esper.signing import BadSignature, Purpose, SigningKey, TrustedKeys
from esper.topics.codec import encode
from esper.topics.models import KernelReady, KernelRevoked

UNSIGNED: Final = "0" * 128
"""The value of `ed25519_signature` in an event that is about to be signed."""

E = TypeVar("E", KernelReady, KernelRevoked)


def sign_announcement(key: SigningKey, ready: KernelReady) -> KernelReady:
    """Return an announcement with the signature of all its other fields."""
    return _signed(key, Purpose.ANNOUNCEMENT, ready)


def verify_announcement(keys: TrustedKeys, ready: KernelReady) -> None:
    """Verify the signature of an announcement.

    Raises:
        ArtifactRefused: no trusted key signed these fields.
    """
    try:
        keys.verify(Purpose.ANNOUNCEMENT, _signed_bytes(ready), ready.ed25519_signature)
    except BadSignature as error:
        raise ArtifactRefused(str(error)) from error


def sign_revocation(key: SigningKey, sha256: str, reason: str) -> KernelRevoked:
    """Return the signed revocation of an artifact.

    Raises:
        ValidationError: `sha256` is no SHA-256, or `reason` has more than 500 characters.
    """
    unsigned = KernelRevoked(sha256=sha256, reason=reason, ed25519_signature=UNSIGNED)
    return _signed(key, Purpose.REVOCATION, unsigned)


def verify_revocation(keys: TrustedKeys, revoked: KernelRevoked) -> None:
    """Verify the signature of a revocation.

    Raises:
        BadSignature: no trusted key signed these fields.
    """
    keys.verify(Purpose.REVOCATION, _signed_bytes(revoked), revoked.ed25519_signature)


def _signed(key: SigningKey, purpose: Purpose, event: E) -> E:
    signature = key.sign(purpose, _signed_bytes(event))
    return event.model_copy(update={"ed25519_signature": signature})


def _signed_bytes(event: KernelReady | KernelRevoked) -> bytes:
    """Return the canonical JSON of an event without its signature.

    An event of a subclass has the fields that were announced, and others.
    """
    model = KernelReady if isinstance(event, KernelReady) else KernelRevoked
    return encode(event, model.model_fields.keys() - {"ed25519_signature"})
