"""A connection after its upgrade to WebSocket: a hello, and then frames both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.agents.framing import Pieces, closing, packed, whole
from api.agents.session import Session, Turn, Why
from drivers.agent import protocol
from drivers.agent.protocol import LARGEST_FRAME, Hello, Malformed

if TYPE_CHECKING:
    from api.agents.door import Connection

MOST_UNSENT: Final = 4 * LARGEST_FRAME  # bytes that one agent has yet to take
POLICY: Final = 1008  # WebSocket's own code for "turned away"


class Talk:
    """One agent's channel; a `Way`."""

    __slots__ = ("_connection", "_pieces", "_session")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pieces: Pieces | None = None
        self._session: Session | None = None

    @property
    def name(self) -> str:
        return "websocket"

    @property
    def peer(self) -> str:
        return self._connection.peer

    # -- what comes ----------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        if self._pieces is None and (text := whole(data)) is not None:
            self._text(text)
        else:
            self._piecewise(data)

    def lost(self) -> None:
        if self._session is not None:
            self._connection.door.switchboard.lost(self._session, self)
            self._session = None

    def _piecewise(self, data: bytes) -> None:
        pieces = self._pieces = self._pieces or Pieces()
        texts, back = pieces.received(data)
        for text in texts:
            self._text(text)
        if self._session is not None:
            try:
                self._connection.door.switchboard.counts(self._session, pieces.frames - len(texts))
            except Turn as turn:
                self.close(turn)
        if self._connection.transport.is_closing():
            return
        if back:
            self._connection.transport.write(back)
        if pieces.closed:
            self.lost()
            self._connection.close()
        elif pieces.whole:
            self._pieces = None

    def _text(self, text: bytes) -> None:
        if self._connection.transport.is_closing():
            return
        try:
            if self._session is None:
                self._greet(text)
            else:
                self._connection.door.switchboard.receive(self._session, self, text)
        except Turn as turn:
            self.close(turn)

    def _greet(self, text: bytes) -> None:
        connection = self._connection
        assert connection.serial is not None  # or there would have been no upgrade
        self._session = connection.door.switchboard.greet(self, connection.serial, hello(text))
        connection.until(None)

    # -- what goes -----------------------------------------------------------------------------------------------------

    def put(self, text: bytes) -> None:
        transport = self._connection.transport
        if transport.is_closing():
            return
        transport.write(packed(text))
        if transport.get_write_buffer_size() > MOST_UNSENT:
            self._connection.abort()

    def close(self, why: Turn) -> None:
        if not self._connection.transport.is_closing():
            last = packed(protocol.text(why.frame).encode())
            self._connection.transport.write(last + closing(POLICY, why.why.value))
            self._connection.close()
        self.lost()


def hello(text: bytes) -> Hello:
    """The first frame, which is a hello; else `Turn`."""
    try:
        frame = protocol.from_agent(text.decode())
    except (Malformed, UnicodeDecodeError) as error:
        raise Turn(Why.MALFORMED, str(error)[:200]) from None
    if not isinstance(frame, Hello):
        raise Turn(Why.MALFORMED, f"a channel begins with a hello, and not with {frame.frame!r}")
    return frame
