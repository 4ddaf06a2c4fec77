"""TLS over a stream that is there already, wherever it leads: the certificate is always judged, and there is no switch
to leave that out."""

from __future__ import annotations

import os
import ssl
from typing import Final, Protocol

import anyio.to_thread

RECEIVE: Final = 16 * 1024
WANTED_PLAIN: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")

Kept = dict[str | None, tuple[tuple[int, int], ssl.SSLContext]]
_contexts: Final[Kept] = {}  # by the file of authorities, with the file's time and size when it was read


class Failed(Exception):
    """What is wrong with the other side, as the end of a sentence."""


class Unready(Exception):
    """What is missing on this side, as the end of a sentence."""


class Reader(Protocol):
    async def read(self, n: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...


class Secured:
    """Reader and writer of one secured stream, once the handshake is done."""

    def __init__(self, reader: Reader, writer: Writer, context: ssl.SSLContext, name: str) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def read(self, n: int, /) -> bytes:
        """What came, at most `n` bytes; nothing when the other side has closed, properly or not."""
        while True:
            try:
                return self._tls.read(n)
            except ssl.SSLWantReadError:
                await self._more()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise _failed(error) from None

    def write(self, data: bytes, /) -> None:
        self._tls.write(data)
        self._flush()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._more()
            except ssl.SSLEOFError:
                raise Failed("the connection ended early") from None
            except ssl.SSLError as error:
                raise _failed(error) from None
        self._flush()

    async def _more(self) -> None:
        self._flush()
        if content := await self._reader.read(RECEIVE):
            self._incoming.write(content)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._writer.write(self._outgoing.read())


async def trusting(ca: str | None) -> ssl.SSLContext:
    """What trusts the authorities in the file, or the system's own; kept as long as the file is the same."""
    try:
        found = os.stat(ca) if ca is not None else None
        stamp = (found.st_mtime_ns, found.st_size) if found else (0, 0)
        kept = _contexts.get(ca)
        if kept is None or kept[0] != stamp:
            kept = (stamp, await anyio.to_thread.run_sync(_read, ca, abandon_on_cancel=True))
            _contexts[ca] = kept
        return kept[1]
    except ssl.SSLError:
        raise Unready(f"{ca} holds no certificates") from None
    except OSError as error:
        raise Unready(f"{ca}: {error.strerror}") from None


async def secured(reader: Reader, writer: Writer, context: ssl.SSLContext, name: str) -> Secured:
    """The stream, secured: the certificate at its other end is trusted, and for this name or address."""
    made = Secured(reader, writer, context, name)
    await made.shake_hands()
    return made


def _read(ca: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def _failed(error: ssl.SSLError) -> Failed:
    """The sentence is the same for the same state of the other side."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failed(f"its certificate is not accepted: {error.verify_message.rstrip('.')}")
    reason = error.reason or "for a reason that is not told"
    if reason in WANTED_PLAIN:
        return Failed("it does not speak TLS")
    return Failed(f"TLS fails: {reason.lower().replace('_', ' ')}")
