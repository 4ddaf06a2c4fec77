"""Blocking streams of runtimes as one async iterator: a thread for each, all ended when their reader leaves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from drivers.errors import DriverError

T = TypeVar("T")

LINE: Final = 64 * 1024  # bytes; what is longer is shown in pieces
AHEAD: Final = 64  # items read before anybody wanted them; then the thread waits, and so does the runtime


class Closeable(Protocol):
    def close(self) -> None: ...


Hold = Callable[[Closeable], None]
Open = Callable[[Hold], Iterator[T]]


class Feed(Generic[T]):
    """Iterate it once, within `async with`. Each `open` is called in its thread; what it hands to `hold` is closed when
    the reader leaves, which ends a read that blocks. The first stream that fails ends the iteration with its error;
    otherwise it ends with the last stream."""

    def __init__(self, *opens: Open[T]) -> None:
        self._opens, self._running = opens, len(opens)
        self._held: list[Closeable] = []
        self._left = False
        self._lock = threading.Lock()
        self._room = threading.Semaphore(AHEAD)

    async def __aenter__(self) -> AsyncIterator[T]:
        self._send, self._receive = anyio.create_memory_object_stream[T | DriverError](inf)  # `_room` bounds it
        self._loop = asyncio.get_running_loop()
        for open in self._opens:
            threading.Thread(target=self._pump, args=(open,), name="stream", daemon=True).start()
        if not self._opens:
            self._send.close()
        return self._items(self._receive)

    async def __aexit__(self, *_: object) -> None:
        self._receive.close()
        self._send.close()
        with self._lock:
            self._left = True
            for stream in self._held:
                _close(stream)
        self._room.release(len(self._opens) or 1)

    async def _items(self, receive: MemoryObjectReceiveStream[Any]) -> AsyncIterator[T]:
        async for item in receive:
            self._room.release()
            if isinstance(item, DriverError):
                raise item
            yield item

    # -- in the threads: they only ever leave a note for the loop, and never wait for one that may have ended ----------

    def _pump(self, open: Open[T]) -> None:
        try:
            for item in open(self._hold):
                self._room.acquire()
                if self._left:
                    return
                self._tell(self._take, item)
        except DriverError as error:
            self._tell(self._take, error)
        finally:
            self._tell(self._ended)

    def _tell(self, note: Callable[..., None], *about: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(note, *about)

    def _take(self, item: Any) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the reader has left
            self._send.send_nowait(item)

    def _ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._send.close()

    def _hold(self, stream: Closeable) -> None:
        with self._lock:
            self._held.append(stream)
            if self._left:
                _close(stream)


def _close(stream: Closeable) -> None:
    with contextlib.suppress(Exception):  # half-closed by the other side: closed is all it should be
        stream.close()


async def lines(open: Open[bytes]) -> AsyncGenerator[str, None]:
    """What a stream of bytes prints, line by line, without their ends."""
    rest = b""
    async with Feed(open) as feed:
        async for piece in feed:
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE:
                whole, rest = [*whole, rest], b""
            for line in whole:
                yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
