"""A certificate authority for tests: servers and clients of one, expired and foreign ones."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate and its key, apart and in one file (as Kafka reads them)."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """Issues certificates below a folder; `file` is its own certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._signed(name, self._key, authority=True, expired=False)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, expired: bool = False) -> CertificateFiles:
        """Return a certificate for `localhost`, 127.0.0.1 and the common name `name`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(name, key, authority=False, expired=expired)
        chain = certificate.public_bytes(Encoding.PEM)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files = CertificateFiles(
            certificate=self._folder / f"{name}.pem",
            key=self._folder / f"{name}-key.pem",
            both=self._folder / f"{name}-both.pem",
        )
        files.certificate.write_bytes(chain)
        for file, content in ((files.key, secret), (files.both, secret + chain)):
            file.touch(mode=0o600)
            file.write_bytes(content)
        return files

    def _signed(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool, expired: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now - DAY if expired else now + DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
