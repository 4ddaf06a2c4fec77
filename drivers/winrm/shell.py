"""One WinRS shell with one program in it, spoken to by pypsrp. Everything here blocks, and everything is bounded."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drivers.errors import DriverError, Refused, Unreachable
from drivers.winrm import kerberos
from drivers.winrm.connection import WinRm
from drivers.winrm.errors import Cut, ExtraMissing, NotAdmitted, NotBelieved, NotWindows, Silent

if TYPE_CHECKING:
    from pypsrp.shell import Process, WinRS
    from requests import Response

LARGEST_ANSWER: Final = 16 << 20  # bytes of one line
WORDS: Final = 2000  # bytes of standard error that are kept for a sentence
PIECE: Final = 64 << 10  # bytes of one Send; its envelope is half as large again, and hosts take 150 KiB
RECEIVES: Final = 20  # seconds of one Receive that nothing comes for; then it is asked again
UNUSED: Final = 900  # seconds after which a host itself ends a shell that nobody speaks to

logging.getLogger("pypsrp").setLevel(logging.CRITICAL)  # its own log has every message, secrets included


def missing(winrm: WinRm) -> str | None:
    """What has to be installed beside the daemon before this can be spoken; None when nothing lacks."""
    if importlib.util.find_spec("pypsrp") is None:
        return "WinRM needs the extra `winrm`: pip install 'holdfast[winrm]'"
    if winrm.auth == "kerberos" and any(importlib.util.find_spec(name) is None for name in ("gssapi", "krb5")):
        return "auth: kerberos needs the extra `kerberos`: pip install 'holdfast[kerberos]'"
    return None


class Shell:
    """A program that runs on a host and answers one line to each that it is sent. Not for two threads at a time."""

    def __init__(self, winrm: WinRm, secrets: Mapping[str, str]) -> None:
        self.winrm, self._secrets = winrm, secrets
        self._keys: Path | None = None
        self._shell: WinRS | None = None
        self._process: Process | None = None
        self._answer: Response | None = None  # the last one
        self._heard = bytearray()

    # -- its beginning and its end -----------------------------------------------------------------------------------

    def open(self, program: str, arguments: Sequence[str], within: float) -> None:
        lacks = missing(self.winrm)
        if lacks is not None:
            raise ExtraMissing(f"{self.winrm}: {lacks}")
        try:
            self._open(program, arguments, within)
        except Exception as error:
            self.close(1.0)
            raise translated(self.winrm, error, began=False) from None

    def _open(self, program: str, arguments: Sequence[str], within: float) -> None:
        from pypsrp.shell import Process, WinRS

        until = time.monotonic() + within
        wsman = self._wsman(within)
        shell = WinRS(wsman, idle_time_out=UNUSED, codepage=65001, working_directory=None)
        self._shell = shell  # to be closed, however far it gets
        shell.open()
        self._be_done_by(until)
        self._process = Process(shell, program, list(arguments))
        self._process.begin_invoke()

    def _wsman(self, within: float) -> Any:
        """Everything is said, so that nothing of whoever runs the daemon leaks in: no proxy, no authorities and no
        passwords of its environment, and no redirect."""
        from pypsrp.wsman import WSMan, WSManAction

        class Impatient(WSMan):
            """Without the SDK's own five tries of a Receive, which no deadline bounds."""

            def receive(
                self,
                resource_uri: str,
                resource: Any,
                option_set: Any = None,
                selector_set: Any = None,
                timeout: Any = None,
            ) -> Any:
                found = self.invoke(WSManAction.RECEIVE, resource_uri, resource, option_set, selector_set, timeout)
                return found.find("{http://www.w3.org/2003/05/soap-envelope}Body")

        winrm, seconds = self.winrm, max(1, int(within))
        certificate: dict[str, Any] = self._certificate()
        wsman = Impatient(
            winrm.host,
            port=winrm.port,
            username=winrm.user,
            password=self._secrets.get("password"),
            ssl=True,
            auth=winrm.auth,
            cert_validation=_authorities(winrm),  # type: ignore[arg-type]  # a file of them, though typed as a switch
            encryption="always" if winrm.message_encryption else "auto",
            connection_timeout=max(1, int(winrm.connects_within)),
            read_timeout=seconds,
            operation_timeout=seconds,
            no_proxy=True,
            **certificate,
        )
        session = wsman.transport._build_session()
        session.trust_env = False
        session.max_redirects = 0
        wsman.transport.session = session
        adapter = session.get_adapter("https://")
        setattr(adapter, "send", self._noted(adapter.send))  # noqa: B010 - of this one object
        return wsman

    def _noted(self, send: Callable[..., Response]) -> Callable[..., Response]:
        """An answer that nobody has read, since what was in it was refused, keeps its connection from being closed."""

        def noted(*arguments: Any, **said: Any) -> Response:
            self._answer = send(*arguments, **said)
            return self._answer

        return noted

    def _certificate(self) -> dict[str, str]:
        """Our own, as the files that OpenSSL wants; nobody else can read them, and they go when the shell does."""
        if self.winrm.auth != "certificate":
            return {}
        self._keys = Path(tempfile.mkdtemp(prefix="holdfast-"))
        found = {}
        for argument, secret in (("certificate_pem", "certificate"), ("certificate_key_pem", "key")):
            path = self._keys / secret
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(self._secrets[secret])
            found[argument] = str(path)
        return found

    def close(self, within: float) -> None:
        """The program is ended, where the host can be told so within the time; it ends by itself else."""
        process, shell = self._process, self._shell
        self._process = self._shell = None
        if shell is not None:
            shell.wsman.operation_timeout = max(1, int(within))
            transport = shell.wsman.transport
            transport.read_timeout = transport.connection_timeout = max(1, int(within))
            with suppress(Exception):
                if process is not None:
                    process.signal("http://schemas.microsoft.com/wbem/wsman/1/windows/shell/signal/terminate")
            with suppress(Exception):
                shell.close()
            with suppress(Exception):
                if self._answer is not None:
                    self._answer.close()
            with suppress(Exception):
                shell.wsman.close()
        if self._keys is not None:
            shutil.rmtree(self._keys, ignore_errors=True)
            self._keys = None

    # -- asking ------------------------------------------------------------------------------------------------------

    def exchange(self, sent: bytes, within: float) -> bytes:
        """Send lines, and answer the next line that comes. Raises `Silent` when none comes in time and `Cut` when the
        shell is lost; both leave a shell that is of no more use."""
        until = time.monotonic() + within
        try:
            self._send(sent, until)
            return self._line(until)
        except DriverError:
            raise
        except Exception as error:
            raise translated(self.winrm, error, began=True) from None

    def _send(self, sent: bytes, until: float) -> None:
        process = self._running()
        for at in range(0, len(sent), PIECE):
            self._be_done_by(until)
            process.send(sent[at : at + PIECE], end=False)

    def _line(self, until: float) -> bytes:
        process = self._running()
        while b"\n" not in self._heard:
            left = self._be_done_by(until)
            if process.state.endswith("/Done"):
                raise self._ended(process)
            process.poll_invoke(timeout=max(1, min(RECEIVES, int(left))))
            self._heard += process.stdout
            process.stdout, process.stderr = b"", process.stderr[-WORDS:]
            if len(self._heard) > LARGEST_ANSWER:
                raise Refused(f"{self.winrm} answers with more than {LARGEST_ANSWER >> 20} MiB")
        line, _, rest = bytes(self._heard).partition(b"\n")
        self._heard = bytearray(rest)
        return line.rstrip(b"\r")

    def _be_done_by(self, until: float) -> float:
        left = until - time.monotonic()
        if left <= 0:
            raise Silent(f"{self.winrm} did not answer in time")
        shell = self._shell
        if shell is None:
            raise Cut(f"{self.winrm}: the shell was closed meanwhile")
        shell.wsman.transport.read_timeout = int(left) + 2
        return left

    def _running(self) -> Process:
        if self._process is None:
            raise Cut(f"{self.winrm}: the shell was closed meanwhile")
        return self._process

    def _ended(self, process: Process) -> DriverError:
        said = process.stderr.decode(errors="replace").strip().splitlines()
        last = said[0][:200] if said else "nothing was said"
        return NotWindows(f"{self.winrm}: the helper has ended with exit code {process.rc}: {last}")


def _authorities(winrm: WinRm) -> str:
    if winrm.ca is not None:
        if not os.access(winrm.ca, os.R_OK):
            raise Refused(f"{winrm}: ca {winrm.ca} cannot be read")
        return winrm.ca
    found = ssl.get_default_verify_paths().cafile
    if found is None:
        raise Refused(f"{winrm}: this machine has no file of authorities: name one in `ca`")
    return found


def translated(winrm: WinRm, error: Exception, *, began: bool) -> DriverError:
    """What it means that the SDK failed. `began`: something was asked for, and may have been done."""
    import requests
    from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError

    if isinstance(error, DriverError):
        return error
    lost = Cut if began else Unreachable
    match error:
        case AuthenticationError():
            return NotAdmitted(f"{winrm}: not admitted with auth: {winrm.auth}")
        case ValueError() if "auth protocol" in str(error):
            return NotAdmitted(f"{winrm}: it does not take auth: {winrm.auth}")
        case requests.exceptions.SSLError():
            return NotBelieved(f"{winrm}: its certificate is not believed: {_why_not_believed(error)}")
        case requests.exceptions.Timeout():
            return Silent(f"{winrm}: no answer in time")
        case requests.exceptions.TooManyRedirects():
            return Refused(f"{winrm}: it sends elsewhere, and no redirect is followed")
        case WSManFaultError() if began:
            return Cut(f"{winrm}: the shell is lost: {_words(error.reason, error.code)}")
        case WSManFaultError():
            return Refused(f"{winrm}: it opens no shell: {_words(error.reason, error.code)}")
        case WinRMTransportError() if error.code in (401, 403):
            return NotAdmitted(f"{winrm}: not admitted with auth: {winrm.auth}, it answers {error.code}")
        case WinRMTransportError():
            return lost(f"{winrm}: it answers {error.code}, which is not WS-Management")
        case requests.exceptions.RequestException() | OSError():
            return lost(f"{winrm}: {'the connection was lost' if began else 'it cannot be reached'}")
    if winrm.auth == "kerberos" and (found := kerberos.translated(winrm, error)) is not None:
        return found
    if type(error).__module__.startswith("spnego"):
        return NotAdmitted(f"{winrm}: not admitted with auth: {winrm.auth}: {_words(str(error), None)}")
    return lost(f"{winrm}: {type(error).__name__}: {_words(str(error), None)}")


def _why_not_believed(error: Exception) -> str:
    found = str(error)
    for inner in ("hostname mismatch", "IP address mismatch", "certificate has expired"):
        if inner.lower() in found.lower():
            return inner
    if "unable to get local issuer" in found or "self-signed certificate" in found:
        return "no authority that is believed has signed it"
    return found.rpartition("(_ssl.c")[0][-160:] or "the TLS connection failed"


def _words(text: str | None, code: object) -> str:
    said = " ".join((text or "").split())[:200]
    return said or f"fault {code}"
