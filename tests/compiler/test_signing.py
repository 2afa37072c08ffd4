"""Keys and signatures."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from esper.compiler.signing import (
    KeysExist,
    create_keys,
    load_private_key,
    sign,
)
from esper.kernel import BadSignature, KeyUnusable, load_public_key, verify


def test_what_one_key_signed_its_other_half_verifies(tmp_path: Path) -> None:
    paths = create_keys(tmp_path / "keys")
    signature = sign(load_private_key(paths.private), b"artifact")
    verify(load_public_key(paths.public), b"artifact", signature)
    assert len(signature) == 128


@pytest.mark.parametrize("data", [b"artifacT", b"artifact ", b""])
def test_a_signature_of_other_bytes_is_bad(tmp_path: Path, data: bytes) -> None:
    paths = create_keys(tmp_path)
    signature = sign(load_private_key(paths.private), b"artifact")
    with pytest.raises(BadSignature):
        verify(load_public_key(paths.public), data, signature)


def test_a_signature_by_another_key_is_bad(tmp_path: Path) -> None:
    ours, theirs = create_keys(tmp_path / "ours"), create_keys(tmp_path / "theirs")
    with pytest.raises(BadSignature):
        verify(load_public_key(ours.public), b"a", sign(load_private_key(theirs.private), b"a"))


@pytest.mark.parametrize("signature", ["", "00", "zz" * 64, "00" * 64])
def test_a_malformed_signature_is_bad(tmp_path: Path, signature: str) -> None:
    with pytest.raises(BadSignature):
        verify(load_public_key(create_keys(tmp_path).public), b"artifact", signature)


def test_only_the_owner_can_read_the_private_key(tmp_path: Path) -> None:
    paths = create_keys(tmp_path)
    assert stat.S_IMODE(paths.private.stat().st_mode) == 0o600


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    before = create_keys(tmp_path).private.read_bytes()
    with pytest.raises(KeysExist):
        create_keys(tmp_path)
    assert (tmp_path / "signing-key.pem").read_bytes() == before


def test_a_file_that_holds_no_key_is_unusable(tmp_path: Path) -> None:
    paths = create_keys(tmp_path)
    (tmp_path / "text.pem").write_text("not a key")
    other = X25519PrivateKey.generate().public_key()
    (tmp_path / "other.pem").write_bytes(
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for load, path in (
        (load_private_key, tmp_path / "missing.pem"),
        (load_private_key, tmp_path / "text.pem"),
        (load_private_key, paths.public),
        (load_public_key, paths.private),
        (load_public_key, tmp_path / "other.pem"),
    ):
        with pytest.raises(KeyUnusable, match=path.name):
            load(path)
