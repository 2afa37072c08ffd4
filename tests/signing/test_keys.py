"""Keys, signatures for one purpose, and the rotation of keys under a running process."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from esper.signing import (
    BadSignature,
    KeysExist,
    KeyUnusable,
    Purpose,
    SigningKey,
    TrustedKeys,
    create_keys,
    fingerprint_of,
    prepare_rotation,
    read_public_keys,
    retire_key,
    rotate_keys,
)

DATA = b'{"a":1}'


def signing(folder: Path) -> SigningKey:
    return SigningKey.load(folder / "signing-key.pem")


def trusted(folder: Path) -> TrustedKeys:
    return TrustedKeys(folder / "trusted-key.pem")


def fingerprints(folder: Path) -> list[str]:
    return [fingerprint_of(key) for key in read_public_keys(folder / "trusted-key.pem")]


@pytest.mark.parametrize("purpose", Purpose)
def test_what_one_key_signed_its_other_half_verifies(tmp_path: Path, purpose: Purpose) -> None:
    create_keys(tmp_path)
    signature = signing(tmp_path).sign(purpose, DATA)
    trusted(tmp_path).verify(purpose, DATA, signature)
    assert len(signature) == 128


@pytest.mark.parametrize("data", [DATA.upper(), DATA + b" ", b""])
def test_a_signature_of_other_bytes_is_bad(tmp_path: Path, data: bytes) -> None:
    create_keys(tmp_path)
    signature = signing(tmp_path).sign(Purpose.DECISION, DATA)
    with pytest.raises(BadSignature):
        trusted(tmp_path).verify(Purpose.DECISION, data, signature)


def test_a_signature_for_another_purpose_is_bad(tmp_path: Path) -> None:
    create_keys(tmp_path)
    signature = signing(tmp_path).sign(Purpose.ANNOUNCEMENT, DATA)
    with pytest.raises(BadSignature, match="not of this adaptation-decision by a trusted key"):
        trusted(tmp_path).verify(Purpose.DECISION, DATA, signature)


def test_a_signature_by_another_key_is_bad(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    create_keys(ours)
    create_keys(theirs)
    with pytest.raises(BadSignature):
        trusted(ours).verify(Purpose.DECISION, DATA, signing(theirs).sign(Purpose.DECISION, DATA))


@pytest.mark.parametrize("signature", ["", "00", "zz" * 64, "00" * 64, "\N{GREEK SMALL LETTER PI}"])
def test_a_malformed_signature_is_bad(tmp_path: Path, signature: str) -> None:
    create_keys(tmp_path)
    with pytest.raises(BadSignature):
        trusted(tmp_path).verify(Purpose.DECISION, DATA, signature)


def test_only_the_owner_can_read_private_keys(tmp_path: Path) -> None:
    create_keys(tmp_path)
    prepare_rotation(tmp_path)
    for name in ("signing-key.pem", "next-signing-key.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    rotate_keys(tmp_path)
    assert stat.S_IMODE((tmp_path / "signing-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "trusted-key.pem").stat().st_mode) == 0o644


def test_the_repr_of_a_signing_key_is_its_fingerprint(tmp_path: Path) -> None:
    create_keys(tmp_path)
    assert repr(signing(tmp_path)) == f"SigningKey({fingerprints(tmp_path)[0]})"


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    before = create_keys(tmp_path).private.read_bytes()
    with pytest.raises(KeysExist):
        create_keys(tmp_path)
    assert (tmp_path / "signing-key.pem").read_bytes() == before


def test_after_a_rotation_old_and_new_signatures_are_valid_until_the_old_key_is_retired(
    tmp_path: Path,
) -> None:
    create_keys(tmp_path)
    (old,) = fingerprints(tmp_path)
    signed_before = signing(tmp_path).sign(Purpose.DECISION, DATA)
    new = rotate_keys(tmp_path)
    assert fingerprints(tmp_path) == [old, new]
    assert signing(tmp_path).fingerprint == new
    signed_after = signing(tmp_path).sign(Purpose.DECISION, DATA)
    for signature in (signed_before, signed_after):
        trusted(tmp_path).verify(Purpose.DECISION, DATA, signature)
    retire_key(tmp_path, old)
    trusted(tmp_path).verify(Purpose.DECISION, DATA, signed_after)
    with pytest.raises(BadSignature):
        trusted(tmp_path).verify(Purpose.DECISION, DATA, signed_before)


def test_a_running_process_follows_a_rotation(tmp_path: Path) -> None:
    create_keys(tmp_path)
    running = trusted(tmp_path)
    rotate_keys(tmp_path)
    running.verify(Purpose.DECISION, DATA, signing(tmp_path).sign(Purpose.DECISION, DATA))


def test_a_running_process_keeps_its_keys_while_the_file_is_unusable(tmp_path: Path) -> None:
    create_keys(tmp_path)
    running, signature = trusted(tmp_path), signing(tmp_path).sign(Purpose.DECISION, DATA)
    (tmp_path / "trusted-key.pem").write_text("half a file")
    with pytest.raises(BadSignature):
        running.verify(Purpose.DECISION, DATA, "00" * 64)
    running.verify(Purpose.DECISION, DATA, signature)


def test_a_prepared_key_is_trusted_before_it_signs(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (old,) = fingerprints(tmp_path)
    new = prepare_rotation(tmp_path)
    assert prepare_rotation(tmp_path) == new
    assert (signing(tmp_path).fingerprint, fingerprints(tmp_path)) == (old, [old, new])
    assert rotate_keys(tmp_path) == new
    assert not (tmp_path / "next-signing-key.pem").exists()


def test_a_key_in_use_or_unknown_cannot_be_retired(tmp_path: Path) -> None:
    create_keys(tmp_path)
    new = prepare_rotation(tmp_path)
    before = fingerprints(tmp_path)
    refusals = {before[0]: "esper keys rotate", new: "esper keys rotate", "0": "esper keys list"}
    for fingerprint, why in refusals.items():
        with pytest.raises(KeyUnusable, match=why):
            retire_key(tmp_path, fingerprint)
    assert fingerprints(tmp_path) == before


def test_a_file_that_holds_no_key_is_unusable(tmp_path: Path) -> None:
    paths = create_keys(tmp_path)
    (tmp_path / "text.pem").write_text("not a key")
    other = X25519PrivateKey.generate().public_key()
    other_pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "other.pem").write_bytes(other_pem)
    (tmp_path / "both.pem").write_bytes(paths.public.read_bytes() + other_pem)
    loads: list[tuple[Callable[[Path], object], str]] = [
        (SigningKey.load, "missing.pem"),
        (SigningKey.load, "text.pem"),
        (SigningKey.load, "trusted-key.pem"),
        (TrustedKeys, "missing.pem"),
        (TrustedKeys, "text.pem"),
        (TrustedKeys, "signing-key.pem"),
        (TrustedKeys, "other.pem"),
        (TrustedKeys, "both.pem"),
    ]
    for load, name in loads:
        with pytest.raises(KeyUnusable, match=name):
            load(tmp_path / name)
