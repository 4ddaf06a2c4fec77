"""Who issues the certificates of agents and of their listener: a root, and issuers under it, as files.

    authority.json   the certificates, and which issuers are retired
    <id>.pem         the private key of the root or of an issuer, readable by its owner alone

Agents trust the root, whose digest stands in their join token; the server trusts the issuers that are not retired, and
never the root itself. So a new issuer is believed by agents that were away when it was made, and the root's private key
is needed for nothing but the next one: it may be kept elsewhere until then. At every moment the directory is whole: a
private key is on the disk before the list names it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.problem import Problem
from drivers import strongbox
from reconciler.store.agents import Certificate, Wanted
from stickers.names import InstallationId
from stickers.signature import key_id

FORMAT: Final = "holdfast.authority/v1"
LIST: Final = "authority.json"
OF_ROOT: Final = timedelta(days=3650)
OF_ISSUER: Final = timedelta(days=365)
OF_SERVER: Final = timedelta(days=7)
OF_CLIENT: Final = timedelta(hours=24)
EARLIER: Final = timedelta(hours=1)  # clocks differ; certificates begin before they are made
SOON: Final = timedelta(days=60)  # before an issuer's end it is time for the next one
LARGEST_CSR: Final = 8 * 1024  # characters

ClientKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A certificate of the list; the root is one too, that is never retired."""

    id: str
    certificate: x509.Certificate
    made: datetime
    retired: datetime | None = None

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    @property
    def not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the listener shows: a private key with its chain up to the root, as one PEM text."""

    pem: str
    not_after: datetime
    issuer: str


class Authority:
    """The authority of one installation. Reads its list again when another process has changed it."""

    def __init__(self, directory: Path, installation: InstallationId) -> None:
        self.directory, self.installation = directory, installation
        self._read_at: tuple[int, int] | None = None
        self._listed: _Listed | None = None

    @property
    def exists(self) -> bool:
        return (self.directory / LIST).exists()

    def make(self, now: datetime) -> bool:
        """Root and first issuer, unless they are there; whether they were made."""
        with _translated(), strongbox.alone(self.directory):
            if self.exists:
                return False
            key = ec.generate_private_key(ec.SECP256R1())
            root = Issuer(id=_id(key.public_key()), certificate=_root(key, self.installation, now), made=now)
            self._keep(root.id, key)
            issuer = self._add(root, key, now)
            self._write(_Listed(root=root, issuers=(issuer,)))
        return True

    # -- what is trusted ---------------------------------------------------------------------------------------------

    @property
    def root(self) -> Issuer:
        return self._all.root

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """Oldest first; the retired are among them."""
        return self._all.issuers

    @property
    def trusted(self) -> tuple[Issuer, ...]:
        return tuple(each for each in self.issuers if each.retired is None)

    @property
    def issuing(self) -> Issuer:
        """The newest; it issues everything."""
        return self.trusted[-1]

    @property
    def has_root_key(self) -> bool:
        return self._private(self.root.id).exists()

    @property
    def fingerprint(self) -> str:
        """What stands in a join token."""
        return fingerprint(self.root.certificate)

    # -- what is issued ----------------------------------------------------------------------------------------------

    def client(self, key: ClientKey, wanted: Wanted, now: datetime) -> Certificate:
        """For an agent: its name, and what it may do with it, are written here and taken from nobody."""
        issuer = self._issuing_at(now)
        not_after = min(now + OF_CLIENT, issuer.not_after)
        name = f"spiffe://{self.installation}/agent/{wanted.agent}"
        built = (
            _begun(key, wanted.agent, issuer, now, not_after)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=False)
        )
        made = built.sign(self._signing(issuer), hashes.SHA256())
        return Certificate(
            serial=made.serial_number,
            agent=wanted.agent,
            generation=wanted.generation,
            key=digest_of(key),
            issuer=issuer.id,
            pem=pem(made),
            issued_at=now,
            not_after=not_after,
        )

    def server(self, names: Sequence[str], now: datetime) -> Served:
        """For the listener, under these host names and addresses. The chain goes up to the root itself, so that an
        agent which knows nothing but the root's digest can find it there."""
        issuer, key = self._issuing_at(now), ec.generate_private_key(ec.SECP256R1())
        not_after = min(now + OF_SERVER, issuer.not_after)
        built = (
            _begun(key.public_key(), "holdfast", issuer, now, not_after)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        )
        made = built.sign(self._signing(issuer), hashes.SHA256())
        text = _key_pem(key).decode() + pem(made) + issuer.pem + self.root.pem
        return Served(pem=text, not_after=not_after, issuer=issuer.id)

    def _issuing_at(self, now: datetime) -> Issuer:
        issuer = self.issuing
        if now >= issuer.not_after:
            ended = f"issuer {issuer.id} has ended on {issuer.not_after:%Y-%m-%d}"
            raise Problem("AUTHORITY_EXPIRED", f"{ended}; `holdfast authority rotate` makes the next one")
        return issuer

    # -- rotation ----------------------------------------------------------------------------------------------------

    def rotate(self, now: datetime) -> Issuer:
        """A new issuer, which issues everything from now on. The former ones stay trusted until they are retired."""
        with _translated(), strongbox.alone(self.directory):
            listed = self._all
            key = self._root_key()
            issuer = self._add(listed.root, key, now)
            self._write(replace(listed, issuers=(*listed.issuers, issuer)))
        return issuer

    def retire(self, id: str, now: datetime) -> Issuer:
        """Trusted no more; its private key is deleted."""
        with _translated(), strongbox.alone(self.directory):
            listed = self._all
            found = next((each for each in listed.issuers if each.id == id), None)
            if found is None or found.retired is not None:
                known = ", ".join(each.id for each in self.trusted)
                raise Problem("NO_AUTHORITY", f"{id[:40]!r} is no issuer that is trusted; those are {known}")
            if found.id == self.issuing.id:
                raise Problem("AUTHORITY_IN_USE", f"{id} issues now; `holdfast authority rotate` comes first")
            gone = replace(found, retired=now)
            self._write(replace(listed, issuers=tuple(gone if each.id == id else each for each in listed.issuers)))
            self._private(id).unlink(missing_ok=True)
            strongbox.settle(self.directory)
        return gone

    # -- files -------------------------------------------------------------------------------------------------------

    @property
    def _all(self) -> _Listed:
        """The list as it is now."""
        path = self.directory / LIST
        with _translated():
            try:
                status = path.stat()
            except OSError as error:
                missing = f"{path}: {error.strerror}; it is made by the first `holdfast agent invite`"
                raise Problem("NO_AUTHORITY", missing) from None
            found = (status.st_mtime_ns, status.st_ino)
            if self._listed is None or found != self._read_at:
                self._listed = _parsed(path, strongbox.get(path, forbidden=0o022), self.installation)
                self._read_at = found
        return self._listed

    def _write(self, listed: _Listed) -> None:
        strongbox.put(self.directory / LIST, listed.text(self.installation), mode=0o644)
        strongbox.sweep(self.directory)

    def _add(self, root: Issuer, key: ec.EllipticCurvePrivateKey, now: datetime) -> Issuer:
        made = ec.generate_private_key(ec.SECP256R1())
        issuer = Issuer(
            id=_id(made.public_key()),
            certificate=_issuer(made.public_key(), root, key, self.installation, now),
            made=now,
        )
        self._keep(issuer.id, made)
        return issuer

    def _keep(self, id: str, key: ec.EllipticCurvePrivateKey) -> None:
        strongbox.put(self._private(id), _key_pem(key))

    def _private(self, id: str) -> Path:
        return self.directory / f"{id}.pem"

    def _root_key(self) -> ec.EllipticCurvePrivateKey:
        path = self._private(self.root.id)
        if not path.exists():
            raise Problem(
                "ROOT_OFFLINE",
                f"the private key of the root is not at {path}; bring it there for as long as this takes, "
                "and take it away again",
            )
        return self._loaded(path, self.root)

    def _signing(self, issuer: Issuer) -> ec.EllipticCurvePrivateKey:
        with _translated():
            return self._loaded(self._private(issuer.id), issuer)

    def _loaded(self, path: Path, issuer: Issuer) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(strongbox.get(path), password=None)
        except (ValueError, TypeError):  # whatever is wrong with it, nothing of it is shown
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != issuer.certificate.public_key():
            raise Problem("AUTHORITY_DAMAGED", f"{path} is not the private key of {issuer.id}")
        return key


@dataclass(frozen=True, kw_only=True)
class _Listed:
    root: Issuer
    issuers: tuple[Issuer, ...]

    def text(self, installation: InstallationId) -> bytes:
        body = {
            "format": FORMAT,
            "installation": installation,
            "root": {"id": self.root.id, "made": self.root.made.isoformat(), "certificate": self.root.pem},
            "issuers": [
                {
                    "id": each.id,
                    "made": each.made.isoformat(),
                    "retired": each.retired and each.retired.isoformat(),
                    "certificate": each.pem,
                }
                for each in self.issuers
            ],
        }
        return json.dumps(body, indent=1).encode() + b"\n"


def _parsed(path: Path, content: bytes, installation: InstallationId) -> _Listed:
    try:
        body = json.loads(content)
        if body["format"] != FORMAT:
            raise Problem("AUTHORITY_DAMAGED", f"{path} has format {str(body['format'])[:40]!r}, expected {FORMAT}")
        if body["installation"] != installation:
            of = str(body["installation"])[:40]
            raise Problem("AUTHORITY_FOREIGN", f"{path} is of installation {of!r}, the database is of {installation!r}")
        root = _read_issuer(body["root"])
        issuers = tuple(_read_issuer(each) for each in body["issuers"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Problem("AUTHORITY_DAMAGED", f"{path} is damaged: {type(error).__name__}") from None
    try:
        for each in issuers:
            each.certificate.verify_directly_issued_by(root.certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise Problem("AUTHORITY_DAMAGED", f"{path} lists an issuer that its root has not signed") from None
    if not any(each.retired is None for each in issuers):
        raise Problem("AUTHORITY_DAMAGED", f"{path} lists no issuer that is not retired")
    return _Listed(root=root, issuers=issuers)


def _read_issuer(item: Any) -> Issuer:
    certificate = x509.load_pem_x509_certificate(item["certificate"].encode())
    retired = item.get("retired")
    issuer = Issuer(
        id=item["id"],
        certificate=certificate,
        made=datetime.fromisoformat(item["made"]),
        retired=None if retired is None else datetime.fromisoformat(retired),
    )
    if issuer.id != _id(certificate.public_key()):
        raise ValueError(f"{issuer.id!r} is not the name of its key")
    return issuer


# -- what comes from outside ------------------------------------------------------------------------------------------


def requested(text: object) -> ClientKey:
    """The public key of a certificate request that its private key has signed; nothing else in it is looked at."""
    if not isinstance(text, str) or len(text) > LARGEST_CSR:
        raise Problem("BAD_CSR", f"the certificate request is no text of at most {LARGEST_CSR} characters")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        signed, key = request.is_signature_valid, request.public_key()
    except Exception:  # of a parser that was handed a stranger's bytes
        raise Problem("BAD_CSR", "the certificate request cannot be read; expected PKCS #10 as PEM") from None
    if not signed:
        raise Problem("BAD_CSR", "the certificate request is not signed by the key it names")
    fits = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if isinstance(key, ed25519.Ed25519PublicKey) or fits:
        return key  # type: ignore[return-value]
    raise Problem("BAD_CSR", f"keys are P-256 or Ed25519 here, not {type(key).__name__.strip('_')[:40]}")


def fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def digest_of(key: ClientKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


# -- certificates -----------------------------------------------------------------------------------------------------


def _root(key: ec.EllipticCurvePrivateKey, installation: InstallationId, now: datetime) -> x509.Certificate:
    name = _named(f"Holdfast {installation} root")
    return (
        _built(key.public_key(), name, name, now, now + OF_ROOT)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _issuer(
    key: ec.EllipticCurvePublicKey,
    root: Issuer,
    signing: ec.EllipticCurvePrivateKey,
    installation: InstallationId,
    now: datetime,
) -> x509.Certificate:
    """Constrained to the names of this installation. The host names of listeners are not listed: replicas come and go,
    and whoever trusts this root is an agent that was told which servers to go to."""
    name = _named(f"Holdfast {installation} issuer {now:%Y-%m-%d} {_id(key)}")
    permitted = [x509.UniformResourceIdentifier(installation)]
    return (
        _built(key, name, root.certificate.subject, now, min(now + OF_ISSUER, root.not_after))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
        .add_extension(_signed_by(root), critical=False)
        .sign(signing, hashes.SHA256())
    )


def _begun(key: ClientKey, name: str, issuer: Issuer, now: datetime, not_after: datetime) -> x509.CertificateBuilder:
    """A certificate that is nobody's authority."""
    return (
        _built(key, _named(name), issuer.certificate.subject, now, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signed_by(issuer), critical=False)
    )


def _built(
    key: ClientKey, subject: x509.Name, issuer: x509.Name, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed_by(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    found = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _id(key: Any) -> str:
    return key_id(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except strongbox.Exposed as error:
        raise Problem("KEYS_EXPOSED", str(error)) from None
    except strongbox.Unusable as error:
        raise Problem("AUTHORITY_UNREACHABLE", str(error)) from None
