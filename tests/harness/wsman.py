"""A server of WS-Management's shells, written from MS-WSMV: what a Windows host's HTTPS listener answers to pypsrp.

Create, Command, Send, Receive, Signal and Delete, with faults; NTLM and Kerberos by pyspnego's acceptors, bound to the
TLS channel, messages sealed when the client seals them; client certificates; an authority of its own. What a command
does is the part of whoever starts the server: a `Program` to each command line.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
import ssl
import tempfile
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from xml.sax.saxutils import escape

import spnego
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pypsrp.encryption import WinRMEncryption
from spnego.channel_bindings import GssChannelBindings

SOAP = "http://www.w3.org/2003/05/soap-envelope"
ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
FAULT = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
MUTUAL = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
LOST_SHELL = 2150858843
SLOW = 2150858793
LARGEST_ENVELOPE = 153600
USER, PASSWORD = r"HOST\deployer", "correct horse"


class Program(Protocol):
    """What one command line runs."""

    def feed(self, data: bytes) -> None: ...

    def read(self, within: float) -> tuple[bytes, bytes, int | None]:
        """What it printed since, and its exit code when it has ended; nothing when nothing came in time."""
        ...

    def end(self) -> None: ...


class Certificates:
    """An authority, the server's certificate, a client's, and one of another authority, as files."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.other = directory / "ca.pem", directory / "other.pem"
        authority = self._authority(self.ca, "tests")
        self.server = self._signed(directory, authority, "server", ExtendedKeyUsageOID.SERVER_AUTH)
        self.client = self._signed(directory, authority, "client", ExtendedKeyUsageOID.CLIENT_AUTH)
        self._authority(self.other, "others")

    def _authority(self, path: Path, name: str) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
        key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        made = _builder(subject, subject, key).add_extension(basic, critical=True).sign(key, hashes.SHA256())
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return subject, key

    def _signed(
        self, directory: Path, authority: tuple[x509.Name, ec.EllipticCurvePrivateKey], who: str, use: Any
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = (
            _builder(_name(who), authority[0], key)
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .sign(authority[1], hashes.SHA256())
        )
        certificate, secret = directory / f"{who}.pem", directory / f"{who}-key.pem"
        certificate.write_bytes(made.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, secret


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )


class Fault(Exception):
    """What a request is answered with that cannot be done."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Server:
    """One host's listener. `offers` is what it asks for who is not admitted yet; the counters are what it has seen."""

    def __init__(self, directory: Path, start: Callable[[str], Program]) -> None:
        self.start_program = start
        self.certificates = Certificates(directory)
        self.binds_to = self._own_certificate()
        self.users = directory / "users"
        self.users.write_text(f"HOST:deployer:{PASSWORD}\n")
        self.offers = "Negotiate"
        self.speaks = "ntlm"  # or kerberos, with the keys that the environment names
        self.admits_certificates = True
        self.shells: dict[str, dict[str, Program]] = {}
        self.seen: list[str] = []  # actions, in order
        self.sealed = self.admitted = 0
        self.clients: list[str] = []  # who was admitted by Kerberos
        self.silent = threading.Event()  # takes requests, and answers none
        self.lines: set[socket.socket] = set()
        self._http = _Http(("127.0.0.1", 0), _Request)
        self._http.owner = self
        self._http.context = self._context()
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificates.server)
        context.load_verify_locations(self.certificates.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _own_certificate(self) -> bytes:
        certificate = x509.load_pem_x509_certificate(self.certificates.server[0].read_bytes())
        return sha256(certificate.public_bytes(Encoding.DER)).digest()

    @property
    def bindings(self) -> GssChannelBindings:
        return GssChannelBindings(application_data=b"tls-server-end-point:" + self.binds_to)

    def lose_shells(self) -> None:
        """As a host does that was restarted: every shell is gone, and what ran in it."""
        shells, self.shells = self.shells, {}
        for commands in shells.values():
            for program in commands.values():
                program.end()

    def cut(self) -> None:
        """Every connection is reset."""
        for line in list(self.lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.silent.clear()
        self._http.shutdown()
        self._http.server_close()
        self.lose_shells()
        self.cut()
        self._thread.join(5)

    # -- the shells --------------------------------------------------------------------------------------------------

    def answer(self, action: str, header: ET.Element, body: ET.Element) -> str:
        verb = action.rpartition("/")[2]
        self.seen.append(verb)
        if verb == "Create":
            return self._create()
        shell = self._shell(header)
        if verb == "Delete":
            for program in self.shells.pop(shell).values():
                program.end()
            return ""
        return str(getattr(self, f"_{verb.lower()}")(shell, body, header))

    def _create(self) -> str:
        shell = str(uuid.uuid4()).upper()
        self.shells[shell] = {}
        selectors = f'<w:SelectorSet><w:Selector Name="ShellId">{shell}</w:Selector></w:SelectorSet>'
        uri = f"<w:ResourceURI>{SHELL}/cmd</w:ResourceURI>"
        created = (
            f"<x:ResourceCreated><a:Address>http://127.0.0.1/wsman</a:Address>"
            f"<a:ReferenceParameters>{uri}{selectors}</a:ReferenceParameters></x:ResourceCreated>"
        )
        return f"{created}<rsp:Shell><rsp:ShellId>{shell}</rsp:ShellId></rsp:Shell>"

    def _shell(self, header: ET.Element) -> str:
        found = header.find(f"{{{WSMAN}}}SelectorSet/{{{WSMAN}}}Selector[@Name='ShellId']")
        if found is None or found.text not in self.shells:
            raise Fault(LOST_SHELL, "The request for the Windows Remote Shell failed because the shell was not found.")
        return str(found.text)

    def _command(self, shell: str, body: ET.Element, header: ET.Element) -> str:
        line = body.find(f"{{{SHELL}}}CommandLine")
        assert line is not None
        words = [line.findtext(f"{{{SHELL}}}Command") or ""]
        words += [one.text or "" for one in line.findall(f"{{{SHELL}}}Arguments")]
        command = str(uuid.uuid4()).upper()
        self.shells[shell][command] = self.start_program(" ".join(words))
        return f"<rsp:CommandResponse><rsp:CommandId>{command}</rsp:CommandId></rsp:CommandResponse>"

    def _program(self, shell: str, id: str | None) -> Program:
        program = self.shells.get(shell, {}).get(id or "")
        if program is None:
            raise Fault(LOST_SHELL, "The command was not found.")
        return program

    def _send(self, shell: str, body: ET.Element, header: ET.Element) -> str:
        stream = body.find(f"{{{SHELL}}}Send/{{{SHELL}}}Stream")
        assert stream is not None
        self._program(shell, stream.get("CommandId")).feed(base64.b64decode(stream.text or ""))
        return "<rsp:SendResponse/>"

    def _receive(self, shell: str, body: ET.Element, header: ET.Element) -> str:
        wanted = body.find(f"{{{SHELL}}}Receive/{{{SHELL}}}DesiredStream")
        assert wanted is not None
        id = wanted.get("CommandId")
        said = header.findtext(f"{{{WSMAN}}}OperationTimeout") or "PT20S"
        match = re.fullmatch(r"PT(\d+(?:\.\d+)?)S", said)
        out, err, code = self._program(shell, id).read(float(match[1]) if match else 20.0)
        if not out and not err and code is None:
            raise Fault(SLOW, "The WS-Management service cannot complete the operation within the time specified.")
        streams = "".join(
            f'<rsp:Stream Name="{name}" CommandId="{id}">{base64.b64encode(data).decode()}</rsp:Stream>'
            for name, data in (("stdout", out), ("stderr", err))
            if data
        )
        ended = "Running" if code is None else "Done"
        exit_code = "" if code is None else f"<rsp:ExitCode>{code}</rsp:ExitCode>"
        state = (
            f'<rsp:CommandState CommandId="{id}" State="{SHELL}/CommandState/{ended}">{exit_code}</rsp:CommandState>'
        )
        return f"<rsp:ReceiveResponse>{streams}{state}</rsp:ReceiveResponse>"

    def _signal(self, shell: str, body: ET.Element, header: ET.Element) -> str:
        signal = body.find(f"{{{SHELL}}}Signal")
        assert signal is not None
        self._program(shell, signal.get("CommandId")).end()
        return "<rsp:SignalResponse/>"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: Server
    context: ssl.SSLContext

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The handshake in the connection's own thread, so that a slow one holds up nobody."""
        try:
            request.settimeout(30)
            secured = self.context.wrap_socket(request, server_side=True)
        except OSError:
            request.close()
            return
        self.owner.lines.add(secured)
        try:
            super().process_request_thread(secured, client_address)
        finally:
            self.owner.lines.discard(secured)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Lines that are cut are a part of these tests."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer is one piece
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.context: Any = None
        self.known = False
        self.proof = ""  # that we are who was asked for, to go with the next answer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.server.owner
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        until = time.monotonic() + 30
        while owner.silent.is_set() and time.monotonic() < until:
            time.sleep(0.02)
        if not self.known and not self._admitted():
            return
        self._serve(owner, content)

    # -- who it is ---------------------------------------------------------------------------------------------------

    def _admitted(self) -> bool:
        owner, said = self.server.owner, self.headers.get("Authorization", "")
        if said == MUTUAL and owner.admits_certificates and self.connection.getpeercert():  # type: ignore[attr-defined]
            self.known = True
        elif said.startswith("Negotiate "):
            return self._negotiated(base64.b64decode(said.split(" ", 1)[1]))
        if not self.known:
            self._refuse(owner.offers)
        owner.admitted += self.known
        return self.known

    def _negotiated(self, token: bytes) -> bool:
        owner = self.server.owner
        try:
            if self.context is None:
                self.context = spnego.server(
                    hostname="127.0.0.1", service="host", protocol=owner.speaks, channel_bindings=owner.bindings
                )
            answer = self.context.step(token)
        except (spnego.exceptions.SpnegoError, AttributeError):  # the latter is how pyspnego words a refused ticket
            self.context = None
            self._refuse(owner.offers)
            return False
        told = "Negotiate " + base64.b64encode(answer or b"").decode()
        if not self.context.complete:
            self._refuse(told)
            return False
        self.known, self.proof = True, told if answer else ""
        owner.admitted += 1
        if owner.speaks == "kerberos":
            owner.clients.append(str(self.context.client_principal))
        return True

    def _refuse(self, offer: str) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", offer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _serve(self, owner: Server, content: bytes) -> None:
        if not content:
            self._reply(200, b"", "application/soap+xml;charset=UTF-8")
            return
        sealing = None
        if self.headers.get("Content-Type", "").startswith("multipart/encrypted"):
            owner.sealed += 1
            sealing = WinRMEncryption(self.context, WinRMEncryption.SPNEGO)
            content = sealing.unwrap_message(content, "Encrypted Boundary")
        status, answer = self._answered(owner, content)
        if sealing is None:
            self._reply(status, answer, "application/soap+xml;charset=UTF-8")
        else:
            kind, wrapped = sealing.wrap_message(answer)
            self._reply(status, wrapped, f'{kind};protocol="{sealing.protocol}";boundary="Encrypted Boundary"')

    def _answered(self, owner: Server, content: bytes) -> tuple[int, bytes]:
        if len(content) > LARGEST_ENVELOPE:
            return 500, _envelope("", _fault(2150858830, "The size of the request exceeded the allowed maximum."))
        envelope = ET.fromstring(content)
        header, body = envelope.find(f"{{{SOAP}}}Header"), envelope.find(f"{{{SOAP}}}Body")
        assert header is not None
        assert body is not None
        message = header.findtext(f"{{{ADDRESSING}}}MessageID") or ""
        try:
            return 200, _envelope(message, owner.answer(header.findtext(f"{{{ADDRESSING}}}Action") or "", header, body))
        except Fault as fault:
            return 500, _envelope(message, _fault(fault.code, fault.reason))

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        if self.proof:
            self.send_header("WWW-Authenticate", self.proof)
            self.proof = ""
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _fault(code: int, reason: str) -> str:
    detail = f'<f:WSManFault Code="{code}" Machine="host"><f:Message>{escape(reason)}</f:Message></f:WSManFault>'
    said = "<s:Code><s:Value>s:Receiver</s:Value></s:Code>"
    text = f'<s:Reason><s:Text xml:lang="en-US">{escape(reason)}</s:Text></s:Reason>'
    return f"<s:Fault>{said}{text}<s:Detail>{detail}</s:Detail></s:Fault>"


def _envelope(message: str, body: str) -> bytes:
    names = f'xmlns:s="{SOAP}" xmlns:a="{ADDRESSING}" xmlns:x="{TRANSFER}" xmlns:w="{WSMAN}" xmlns:rsp="{SHELL}"'
    header = f"<a:RelatesTo>{escape(message)}</a:RelatesTo>"
    return (
        f'<s:Envelope {names} xmlns:f="{FAULT}"><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>'
    ).encode()


@contextmanager
def running(start: Callable[[str], Program]) -> Iterator[Server]:
    """A listener, whose acceptor finds its users where pyspnego looks for them."""
    with tempfile.TemporaryDirectory(prefix="hf-wsman-") as directory:
        server = Server(Path(directory), start)
        before = os.environ.get("NTLM_USER_FILE")
        os.environ["NTLM_USER_FILE"] = str(server.users)
        try:
            yield server
        finally:
            server.close()
            if before is None:
                os.environ.pop("NTLM_USER_FILE", None)
            else:
                os.environ["NTLM_USER_FILE"] = before
