"""A connection before its upgrade: requests of those who join, renew or poll, and the one that makes it a channel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import anyio
import h11
import structlog
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from api.agents.framing import LOG
from api.agents.roll import Member
from api.agents.session import Turn, Why
from api.agents.talk import Talk
from drivers.agent import protocol
from drivers.agent.channels import polls
from drivers.agent.duty.identity import AUTHORITY, JOIN, RENEW
from drivers.agent.protocol import LARGEST_FRAME, Turned

if TYPE_CHECKING:
    from api.agents.door import Connection
    from api.agents.polling import Polling

CHANNEL: Final = "/agent/v1/channel"
METHODS: Final = {CHANNEL: "GET", AUTHORITY: "GET", JOIN: "POST", RENEW: "POST", polls.PATH: "POST"}
OPEN: Final = (AUTHORITY, JOIN)  # to whoever has no certificate yet

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
HEAD_BYTES: Final = 16 * 1024  # of a request's line and headers
BODY_BYTES: Final = {polls.PATH: 3 * LARGEST_FRAME, JOIN: 64 * 1024, RENEW: 64 * 1024}
EARLY_BYTES: Final = 64 * 1024  # of requests that come before the one before has its answer
ENROL_SECONDS: Final = 30.0

_log: Final = structlog.get_logger("agents")


class Refusal(Exception):
    """What HTTP itself says no to."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.said = status, Turned(code=code, sentence=sentence)


class Exchange:
    """HTTP/1.1 with one peer. Whoever is refused is told in the words of a `Turned`, and the connection ends."""

    __slots__ = ("_answering", "_body", "_connection", "_early", "_http", "_reading", "_request", "way")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._answering, self._reading, self._early = False, False, 0
        self.way: Polling | None = None

    @property
    def peer(self) -> str:
        return self._connection.peer

    def received(self, data: bytes) -> None:
        if self._answering:
            self._early += len(data)
            if self._early > EARLY_BYTES:
                self._connection.abort()
                return
        try:
            self._http.receive_data(data)
        except RuntimeError:  # after its end was said
            self._connection.abort()
            return
        if not self._answering:
            self._read()

    def lost(self) -> None:
        if self.way is not None:
            self.way.gone(self)

    def answer(self, status: int, body: bytes, kind: str = JSON) -> None:
        """The answer to the request; afterwards the next one may come."""
        if self._connection.transport.is_closing():
            return
        lasting = status < 400 and self._connection.serial is not None
        self._write(status, body, lasting, kind)
        if not lasting or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._connection.close()
            return
        self._http.start_next_cycle()
        self._request, self._answering, self._early = None, False, 0
        self._connection.until(self._connection.door.limits.idle)
        self._read()

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """As far as the next request that is not answered at once. An answer comes back to here, and goes no deeper."""
        if self._reading:
            return
        self._reading = True
        try:
            self._events()
        except h11.RemoteProtocolError as error:
            self._refuse(Refusal(error.error_status_hint, "MALFORMED", f"no request: {error}"))
        except Refusal as refusal:
            self._refuse(refusal)
        except Turn as turn:
            self._refuse(Refusal(turn.why.status, turn.why.value, turn.sentence))
        finally:
            self._reading = False

    def _events(self) -> None:
        while not self._answering and not self._connection.transport.is_closing():
            event = self._http.next_event()
            match event:
                case h11.Request():
                    self._begun(event)
                case h11.Data():
                    self._body += event.data
                    if len(self._body) > BODY_BYTES.get(self._path, 0):
                        raise Refusal(413, "TOO_LARGE", "the request's body is larger than any that is read here")
                case h11.EndOfMessage():
                    self._answering = True
                    self._connection.until(None)
                    body, self._body = bytes(self._body), bytearray()
                    self._asked(body)
                case h11.ConnectionClosed():
                    self._connection.close()
                    return
                case _:
                    return

    @property
    def _path(self) -> str:
        return self._request.target.decode("ascii") if self._request is not None else ""

    def _begun(self, request: h11.Request) -> None:
        """Who may not ask this is told so before its body is read."""
        self._request = request
        self._connection.until(self._connection.door.limits.request)
        if self._path not in METHODS:
            raise Refusal(404, "NOT_FOUND", "there is nothing here")
        if request.method.decode("ascii") != METHODS[self._path]:
            raise Refusal(405, "METHOD_NOT_ALLOWED", f"{METHODS[self._path]} is what is asked here")
        if self._path not in OPEN:
            self._insist_on_own(self._connection.door.switchboard.member(self._serial()))

    def _insist_on_own(self, member: Member) -> None:
        """An issuer that is in other hands makes certificates with any number; with the right one it makes none that
        was issued here."""
        if member.certificate and member.certificate != self._connection.digest:
            raise Refusal(403, Why.UNKNOWN.value, "this certificate was not issued here, whatever its number is")

    def _serial(self) -> int:
        if self._connection.serial is None:
            raise Refusal(401, "CERTIFICATE_MISSING", "show the certificate of an agent of this installation")
        return self._connection.serial

    def _asked(self, body: bytes) -> None:
        if self._path == CHANNEL:
            self._upgrade()
        elif self._path == polls.PATH:
            self._connection.door.polls.asked(self, self._serial(), body)
        else:
            self._enrol(self._path, body)

    def _upgrade(self) -> None:
        assert self._request is not None
        headers = Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in self._request.headers)
        protocol = ServerProtocol(logger=LOG)
        response = protocol.accept(Request(self._path, headers))
        if response.status_code != 101:
            raise Refusal(response.status_code, "NO_WEBSOCKET", "this is where a WebSocket begins")
        self._connection.transport.write(response.serialize())
        trailing, _ = self._http.trailing_data
        talk = self._connection.part = Talk(self._connection)
        self._connection.until(self._connection.door.limits.request)
        if trailing:
            talk.received(bytes(trailing))

    def _enrol(self, path: str, body: bytes) -> None:
        door = self._connection.door
        if door.enrolling >= door.limits.enrolments:
            raise Refusal(503, "BUSY", "too many join at once; come back in a moment")
        door.enrolling += 1
        door.tasks.start_soon(self._enrolled, path, body, self._connection.certificate())

    async def _enrolled(self, path: str, body: bytes, certificate: bytes | None) -> None:
        door = self._connection.door
        try:
            with anyio.fail_after(ENROL_SECONDS):
                status, said = await door.enrol(METHODS[path], path, body, certificate, self.peer)
            self.answer(status, json.dumps(said).encode(), JSON if status < 400 else PROBLEM)
        except Exception as error:  # one who cannot be answered costs nobody else the door
            _log.error("agents.door.enrolment_failed", path=path, error=repr(error))
            self._refuse(Refusal(500, "INTERNAL", "this could not be answered; the server's log says why"))
        finally:
            door.enrolling -= 1

    def _refuse(self, refusal: Refusal) -> None:
        if not self._connection.transport.is_closing():
            self._write(refusal.status, protocol.text(refusal.said).encode(), lasting=False)
            self._connection.close()

    def _write(self, status: int, body: bytes, lasting: bool, kind: str = JSON) -> None:
        headers = [("content-type", kind), ("content-length", str(len(body)))]
        headers += [] if lasting else [("connection", "close")]
        head = self._http.send(h11.Response(status_code=status, headers=headers)) or b""
        sent = self._http.send(h11.Data(data=body)) or b""
        self._connection.transport.write(head + sent + (self._http.send(h11.EndOfMessage()) or b""))
