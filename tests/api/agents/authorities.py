"""A certificate authority for tests: made in a moment, thrown away afterwards."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.agents.authority import Served
from api.agents.tls import context


@dataclass(frozen=True)
class Papers:
    """A certificate and its key, in one file."""

    path: Path
    serial: int


class Authority:
    def __init__(self, directory: Path, name: str = "agents") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _unsigned(self._name, self._name, self._key.public_key(), days=10)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def papers(self, name: str, *, days: float = 1.0, server: bool = False) -> Papers:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate(name, key.public_key(), days=days, server=server)
        path = self._directory / f"{name}-{certificate.serial_number:x}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        return Papers(path, certificate.serial_number)

    def certificate(
        self, name: str, public: ec.EllipticCurvePublicKey, *, days: float = 1.0, server: bool = False
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _unsigned(subject, self._name, public, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
        )
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def server(self) -> ssl.SSLContext:
        """The door's side of TLS."""
        papers = self.papers("server", server=True)
        served = Served(pem=papers.path.read_text(), not_after=datetime.now(UTC) + timedelta(days=1), issuer="")
        return context(served, self.pem)

    def client(self, papers: Papers | None) -> ssl.SSLContext:
        """An agent's side of TLS, or that of somebody without papers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.pem)
        if papers is not None:
            context.load_cert_chain(papers.path)
        return context


def _unsigned(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
    )
