"""WebSocket frames from an agent. Nearly all are one short text in one piece: that is read here, and everything else
is left to the library, which is kept only as long as something is half said."""

from __future__ import annotations

import logging
from typing import Final

from websockets.frames import CTRL_OPCODES, CloseCode, Frame, Opcode
from websockets.frames import apply_mask as unmasked  # type: ignore[attr-defined]  # the fast one, where it is built
from websockets.protocol import State
from websockets.server import ServerProtocol

from drivers.agent.protocol import LARGEST_FRAME

LARGEST: Final = 2 * LARGEST_FRAME  # bytes: a character may need more than one; the characters are counted later
LOG: Final = logging.getLogger("holdfast.agents.websocket")
LOG.setLevel(logging.WARNING)  # each connection that ends would be a line


def packed(text: bytes) -> bytes:
    """A text as one frame from the server."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), text)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), text)


def whole(data: bytes) -> bytes | None:
    """The text, where what has come is exactly one masked text frame of less than 64 KiB."""
    size = len(data)
    if size < 6 or data[0] != 0x81:
        return None
    said = data[1] - 0x80
    if 0 <= said < 126:
        return unmasked(data[6:], data[2:6]) if size == said + 6 else None
    if said == 126 and size > 8 and size == (data[2] << 8 | data[3]) + 8:
        return unmasked(data[8:], data[4:8])
    return None


class Pieces:
    """A channel in which something is half said, or is no text. `frames` counts those of the last that was received."""

    __slots__ = ("_fed", "_part", "_protocol", "_refused", "closed", "frames")

    def __init__(self) -> None:
        self._protocol = ServerProtocol(state=State.OPEN, max_size=LARGEST, logger=LOG)
        self._part: bytearray | None = None
        self._fed = 0
        self._refused = self.closed = False
        self.frames = 0

    def received(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The texts that are complete now, and what is to be sent back. `closed` where that is the last."""
        if self.closed:
            return [], b""
        self._protocol.receive_data(data)
        self._fed += len(data)
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self.frames = len(frames)
        texts = [text for frame in frames if (text := self._text(frame)) is not None]
        self.closed = self._protocol.state is not State.OPEN
        return texts, b"".join(self._protocol.data_to_send())

    @property
    def whole(self) -> bool:
        """Nothing is half said."""
        return self._fed == 0 and self._part is None and not self.closed

    def _text(self, frame: Frame) -> bytes | None:
        self._fed -= _size(frame)
        if frame.opcode in CTRL_OPCODES or self._refused:
            return None
        if frame.opcode is Opcode.BINARY:
            self._refused = True
            self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "frames are texts")
            return None
        if frame.fin and self._part is None:
            return bytes(frame.data)
        self._part = self._part if self._part is not None else bytearray()
        self._part += frame.data
        if not frame.fin:
            return None
        text, self._part = bytes(self._part), None
        return text


def _size(frame: Frame) -> int:
    """What it took, written in the shortest way. Written in a longer one, more was fed, and nothing is whole again."""
    size = len(frame.data)
    return size + 6 + (0 if size < 126 else 2 if size < 65536 else 8)


def closing(code: int, reason: str) -> bytes:
    """The server's last frame."""
    said = code.to_bytes(2, "big") + reason.encode()[:123]
    return b"\x88%c%b" % (len(said), said)
