"""Who an agent is: its keys and its certificate in one directory of its host, and how it comes by them.

    identity.json       name, generation, whom it trusts, and which of the files beside it counts
    tls-<digest>.pem    the private key of TLS with its certificate
    signing.pem         the Ed25519 key that signs what it says
    sealing.pem         the X25519 key that secrets are sealed to
    wanted.pem          a key for which a certificate was asked, until the answer stands

Every private key is on the disk before anybody is told its public half, and `identity.json` names a certificate only
when that is on the disk too. So whoever is ended in between asks again with the same key, and is given the certificate
that was made for it: an answer that was lost costs nothing.

The first contact trusts nobody either: the join token carries the digest of the authority's certificate, and nothing
but that certificate is fetched before it has been compared.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import secrets
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from drivers import strongbox
from stickers import digest
from stickers.names import AgentName, InstallationId, TargetId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

FORMAT: Final = "holdfast.identity/v1"
FILE: Final = "identity.json"
SIGNING: Final = "signing.pem"
SEALING: Final = "sealing.pem"
WANTED: Final = "wanted.pem"
SECONDS: Final = 20.0  # that a server has for one answer
LARGEST: Final = 256 * 1024  # bytes of one that are read
RENEWS: Final = 2 / 3  # of its life a certificate is used before the next one is asked for

AUTHORITY: Final = "/agent/v1/authority"
JOIN: Final = "/agent/v1/join"
RENEW: Final = "/agent/v1/renew"

TOKEN: Final = re.compile(
    r"holdfast-join:(?P<secret>[A-Za-z0-9_-]{43}):(?P<authority>[0-9a-f]{64}):(?P<signer>[0-9a-f]{64})"
)


class IdentityError(Exception):
    """The identity cannot be had or used; the sentence says why. `code` is the server's own where it has spoken."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What an operator hands to a host, once: a secret, whom to believe, and who authorises tasks."""

    secret: str
    authority: str  # SHA-256 of the root's certificate, hex
    signer: str  # SHA-256 of the signer's raw public key, hex

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        found = TOKEN.fullmatch(text.strip())
        if found is None:
            raise IdentityError("BAD_TOKEN", "this is no join token; `holdfast agent invite` prints one, in one line")
        return cls(**found.groupdict())

    @classmethod
    def made(cls, authority: str, signer: str) -> JoinToken:
        return cls(secret=secrets.token_urlsafe(32), authority=authority, signer=signer)

    @property
    def hash(self) -> str:
        """What the server keeps of it."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def __str__(self) -> str:
        return f"holdfast-join:{self.secret}:{self.authority}:{self.signer}"

    def __repr__(self) -> str:
        return f"JoinToken(authority={self.authority!r}, signer={self.signer!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An agent as it stands in its directory. `authority` is the certificate that its join token named, `signers` are
    the public keys whose tasks it carries out, in hex: at first the one that the token named."""

    directory: Path
    name: AgentName
    installation: InstallationId
    generation: int
    certificate: str  # PEM
    file: str
    authority: str  # PEM
    servers: tuple[str, ...]
    targets: tuple[TargetId, ...]
    signers: tuple[str, ...]

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Raises `IdentityError` with `NOT_JOINED` where there is none."""
        path = directory / FILE
        if not path.exists():
            raise IdentityError("NOT_JOINED", f"{directory} holds no identity; `holdfast-agent join` makes one")
        with _translated():
            return _parsed(directory, strongbox.get(path))

    def tls(self) -> ssl.SSLContext:
        """How it speaks with servers: it shows its certificate, and believes those that its authority has issued,
        whichever of the authority's issuers did."""
        context = _context(self.authority)
        with _translated():
            path = self.directory / self.file
            strongbox.get(path)  # nobody else can read it
            try:
                context.load_cert_chain(path)
            except (ssl.SSLError, OSError) as error:
                raise IdentityError("IDENTITY_DAMAGED", f"{path} cannot be used: {error.strerror or error}") from None
        return context

    @property
    def signing(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        found: Ed25519PrivateKey = _loaded(self.directory / SIGNING, Ed25519PrivateKey)
        return found

    @property
    def sealing(self) -> X25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        found: X25519PrivateKey = _loaded(self.directory / SEALING, X25519PrivateKey)
        return found

    def trusting(self, signers: Sequence[str]) -> Identity:
        """From now on the tasks of these signers are carried out. Only a task of one that is trusted says so."""
        changed = replace(self, signers=tuple(signers))
        with _translated(), strongbox.alone(self.directory):
            strongbox.put(self.directory / FILE, _text(replace(Identity.load(self.directory), signers=changed.signers)))
        return changed

    @property
    def life(self) -> tuple[datetime, datetime]:
        """From when until when its certificate counts."""
        from cryptography import x509

        found = x509.load_pem_x509_certificate(self.certificate.encode())
        return found.not_valid_before_utc, found.not_valid_after_utc

    def renews_at(self) -> datetime:
        begins, ends = self.life
        return begins + (ends - begins) * RENEWS


# -- joining and renewing ---------------------------------------------------------------------------------------------


def join(
    url: str, token: str, directory: Path, *, version: str, proxy: str | None = None, seconds: float = SECONDS
) -> Identity:
    """Become who the token was made for. Asked again after it was ended on the way, it goes on from there. Blocks;
    raises `IdentityError`."""
    meant, server = JoinToken.parse(token), _Server(url, proxy, seconds)
    with _translated(), strongbox.alone(directory):
        strongbox.sweep(directory)
        root = _root(server, meant.authority)
        try:
            return _joined(server, meant, root, directory, version)
        except IdentityError as error:
            if error.code != "KEY_USED":
                raise
        (directory / WANTED).unlink(missing_ok=True)  # it was certified for another token, and the answer was lost
        return _joined(server, meant, root, directory, version)


def _joined(server: _Server, token: JoinToken, root: str, directory: Path, version: str) -> Identity:
    key, signing, sealing = _wanted(directory), _made(directory, SIGNING), _made(directory, SEALING)
    asked = {
        "token": str(token),
        "csr": (csr := _request(key)),
        "signing": _raw(signing),
        "sealing": _raw(sealing),
        "proof": signing.sign(csr.encode()).hex(),
        "version": version,
    }
    identity = _answered(directory, server.ask("POST", JOIN, asked, _context(root)), root, key)
    trusted = tuple(each for each in identity.signers if _digest(each) == token.signer)
    if not trusted:
        raise IdentityError(
            "WRONG_SIGNER", f"{server.url} names another signer than the join token does; ask for a new token"
        )
    return _settled(replace(identity, signers=trusted), key)


def renew(identity: Identity, *, proxy: str | None = None, seconds: float = SECONDS) -> Identity:
    """The next generation of the identity, with a new key, from the first server that answers. Blocks; raises
    `IdentityError`; until it returns the old one counts."""
    with _translated(), strongbox.alone(identity.directory):
        identity = Identity.load(identity.directory)
        key = _wanted(identity.directory)
        context, asked = identity.tls(), {"csr": _request(key)}
        answer = _first(identity.servers, RENEW, asked, context, proxy, seconds)
        renewed = _answered(identity.directory, answer, identity.authority, key)
        if (renewed.name, renewed.installation) != (identity.name, identity.installation):
            raise IdentityError("WRONG_ANSWER", f"agent {identity.name} was answered with what {renewed.name} is")
        return _settled(replace(renewed, signers=identity.signers), key)


def _first(
    servers: Sequence[str], path: str, asked: dict[str, str], context: ssl.SSLContext, proxy: str | None, seconds: float
) -> dict[str, Any]:
    """A refusal is an answer too: only who cannot be reached is passed by."""
    lost = IdentityError("UNREACHABLE", "no server is known")
    for url in servers:
        try:
            return _Server(url, proxy, seconds).ask("POST", path, asked, context)
        except IdentityError as error:
            if error.code != "UNREACHABLE":
                raise
            lost = error
    raise lost


def _root(server: _Server, expected: str) -> str:
    """The authority's certificate. Whoever answers is nobody yet: what they send is compared, and nothing is told."""
    unknown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unknown.check_hostname, unknown.verify_mode = False, ssl.CERT_NONE
    answer = server.ask("GET", AUTHORITY, None, unknown)
    try:
        text = str(answer["authority"])
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()
    except (KeyError, ValueError):
        raise IdentityError("WRONG_AUTHORITY", f"{server.url} sent no certificate of its authority") from None
    if not secrets.compare_digest(found, expected):
        raise IdentityError(
            "WRONG_AUTHORITY",
            f"{server.url} is of another authority ({found[:16]}…) than the join token ({expected[:16]}…): this is "
            "another server, or somebody stands between; nothing was told to it",
        )
    return text


def _answered(directory: Path, answer: dict[str, Any], root: str, key: EllipticCurvePrivateKey) -> Identity:
    """The identity that a server's answer makes. Whom it trusts is not for the server to say."""
    from cryptography import x509

    try:
        certificate = str(answer["certificate"])
        if x509.load_pem_x509_certificate(certificate.encode()).public_key() != key.public_key():
            raise ValueError("it is a certificate of another key")
        return Identity(
            directory=directory,
            name=AgentName(str(answer["name"])),
            installation=InstallationId(str(answer["installation"])),
            generation=int(answer["generation"]),
            certificate=certificate,
            file=f"tls-{digest.short(digest.of_bytes(certificate.encode()))}.pem",
            authority=root,
            servers=tuple(str(each) for each in answer["servers"]),
            targets=tuple(TargetId(str(each)) for each in answer["targets"]),
            signers=tuple(str(each) for each in answer["signers"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise IdentityError("WRONG_ANSWER", f"the server's answer is none: {type(error).__name__}: {error}") from None


def _settled(identity: Identity, key: EllipticCurvePrivateKey) -> Identity:
    """On the disk: first the key with its certificate, then what names it, and only then what it replaces is gone."""
    directory = identity.directory
    strongbox.put(directory / identity.file, _pem(key) + identity.certificate.encode())
    strongbox.put(directory / FILE, _text(identity))
    for path in directory.glob("tls-*.pem"):
        if path.name != identity.file:
            path.unlink()
    (directory / WANTED).unlink(missing_ok=True)
    strongbox.settle(directory)
    return identity


@dataclass(frozen=True, slots=True)
class _Server:
    """One server, asked one thing per connection, directly or through an HTTP proxy."""

    url: str
    proxy: str | None
    seconds: float

    def ask(self, method: str, path: str, asked: dict[str, str] | None, context: ssl.SSLContext) -> dict[str, Any]:
        """Its answer; what it refuses is raised with its own code."""
        connection = self._connection(context)
        try:
            body = None if asked is None else json.dumps(asked)
            connection.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
            response = connection.getresponse()
            content = response.read(LARGEST + 1)
        except ssl.SSLCertVerificationError as error:
            reason = f"{self.url} cannot prove to be the server: {error.verify_message}"
            raise IdentityError("WRONG_AUTHORITY", reason) from None
        except (OSError, http.client.HTTPException) as error:
            reason = f"{self.url} cannot be reached: {error or type(error).__name__}"
            raise IdentityError("UNREACHABLE", reason) from None
        finally:
            connection.close()
        return _understood(self.url, response.status, content)

    def _connection(self, context: ssl.SSLContext) -> http.client.HTTPSConnection:
        there = _place(self.url, "https")
        if self.proxy is None:
            return http.client.HTTPSConnection(
                there.hostname or "", there.port or 443, timeout=self.seconds, context=context
            )
        between = _place(self.proxy, "http")
        connection = http.client.HTTPSConnection(
            between.hostname or "", between.port or 3128, timeout=self.seconds, context=context
        )
        connection.set_tunnel(there.hostname or "", there.port or 443, _credentials(between))
        return connection


def _place(url: str, scheme: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme == scheme and parts.hostname and (parts.port is None or parts.port):
            return parts
    except ValueError:
        pass
    raise IdentityError("BAD_ADDRESS", f"{url[:80]!r} is no address; expected {scheme}://HOST:PORT")


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(said).decode()}"}


def _understood(url: str, status: int, content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content) if len(content) <= LARGEST else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise IdentityError("WRONG_ANSWER", f"{url} answered {status} with what is no answer of a Holdfast server")
    if status == 200:
        return answer
    code = answer.get("code")
    code = code if isinstance(code, str) and re.fullmatch(r"[A-Z_]{2,40}", code) else "REFUSED"
    said = str(answer.get("detail") or answer.get("sentence") or "")  # of the office, or of the door before it
    detail = "".join(each for each in said[:300] if each.isprintable())
    if status in (429, 503):
        raise IdentityError("UNREACHABLE", f"{url} has no time now: {detail}")
    raise IdentityError(code, detail or f"{url} refused with status {status}")


# -- keys -------------------------------------------------------------------------------------------------------------


def _wanted(directory: Path) -> EllipticCurvePrivateKey:
    """The key that a certificate is asked for: the one for which it was asked already, unless the answer stands, or a
    new one."""
    from cryptography.hazmat.primitives.asymmetric import ec

    path = directory / WANTED
    if not path.exists() or _stands(directory, strongbox.get(path)):
        strongbox.put(path, _pem(ec.generate_private_key(ec.SECP256R1())))
    key: EllipticCurvePrivateKey = _loaded(path, ec.EllipticCurvePrivateKey)
    return key


def _stands(directory: Path, wanted: bytes) -> bool:
    """Whether the identity is of this key already: whoever was ended before the key was taken away meets it here."""
    if not (directory / FILE).exists():
        return False
    identity = Identity.load(directory)
    return strongbox.get(directory / identity.file).startswith(wanted)


def _made(directory: Path, name: str) -> Any:
    """The key of that name, made when missing: it is kept as long as the directory is."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    kind: Any = Ed25519PrivateKey if name == SIGNING else X25519PrivateKey
    path = directory / name
    if not path.exists():
        strongbox.put(path, _pem(kind.generate()))
    return _loaded(path, kind)


def _loaded(path: Path, kind: Any) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with _translated():
        content = strongbox.get(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):  # whatever is wrong with it, nothing of it is shown
        key = None
    if not isinstance(key, kind):
        raise IdentityError("IDENTITY_DAMAGED", f"{path} is not the private key that it should be")
    return key


def _request(key: EllipticCurvePrivateKey) -> str:
    """A request that says nothing but the key: whoever issues the certificate writes everything else."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    signed = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def _digest(public: str) -> str:
    try:
        return hashlib.sha256(bytes.fromhex(public)).hexdigest()
    except ValueError:
        return ""


def _raw(private: Any) -> str:
    raw: bytes = private.public_key().public_bytes_raw()
    return raw.hex()


def _pem(private: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    written: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return written


def _context(authorities: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authorities)
    return context


# -- the identity as text ---------------------------------------------------------------------------------------------

_TEXTS: Final = ("name", "installation", "generation", "certificate", "file", "authority")
_LISTS: Final = ("servers", "targets", "signers")


def _text(identity: Identity) -> bytes:
    said: dict[str, Any] = {name: getattr(identity, name) for name in _TEXTS}
    listed = {name: list(getattr(identity, name)) for name in _LISTS}
    return json.dumps({"format": FORMAT, **said, **listed}, indent=1).encode() + b"\n"


def _parsed(directory: Path, content: bytes) -> Identity:
    try:
        said = json.loads(content)
        if said["format"] != FORMAT:
            raise ValueError(f"format {str(said['format'])[:40]!r}, this version reads {FORMAT}")
        listed: dict[str, Any] = {name: tuple(str(each) for each in said[name]) for name in _LISTS}
        if not re.fullmatch(r"tls-[0-9a-z]+\.pem", said["file"]):
            raise ValueError(f"{str(said['file'])[:40]!r} is no file of an identity")
        return Identity(directory=directory, **{name: said[name] for name in _TEXTS}, **listed)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IdentityError("IDENTITY_DAMAGED", f"{directory / FILE} is damaged: {str(error)[:120]}") from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except strongbox.Exposed as error:
        raise IdentityError("IDENTITY_EXPOSED", str(error)) from None
    except strongbox.Unusable as error:
        raise IdentityError("IDENTITY_UNREACHABLE", str(error)) from None
