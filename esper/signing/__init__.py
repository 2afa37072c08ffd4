"""Ed25519 signatures: what compile and bandit workers publish, trainers verify (RFC 8032).

In: a key pair as PEM files. `SigningKey` signs bytes for one purpose; `TrustedKeys` verifies that
one of the deployment's keys signed them for that purpose.
"""

from esper.signing.errors import BadSignature, KeysExist, KeyUnusable
from esper.signing.keys import (
    PRIVATE_KEY_FILE,
    PUBLIC_KEY_FILE,
    KeyPaths,
    SigningKey,
    create_keys,
    prepare_rotation,
    retire_key,
    rotate_keys,
    signing_states,
)
from esper.signing.purpose import Purpose
from esper.signing.trusted_keys import TrustedKeys, fingerprint_of, read_public_keys

__all__ = [
    "PRIVATE_KEY_FILE",
    "PUBLIC_KEY_FILE",
    "BadSignature",
    "KeyPaths",
    "KeyUnusable",
    "KeysExist",
    "Purpose",
    "SigningKey",
    "TrustedKeys",
    "create_keys",
    "fingerprint_of",
    "prepare_rotation",
    "read_public_keys",
    "retire_key",
    "rotate_keys",
    "signing_states",
]
