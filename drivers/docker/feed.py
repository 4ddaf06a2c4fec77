"""Blocking streams of engines as one async iterator: a thread for each, all ended when their reader leaves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from drivers.errors import DriverError

T = TypeVar("T")

AHEAD: Final = 64  # items read before anybody wanted them; then the thread waits, and so does the engine


class Closeable(Protocol):
    def close(self) -> None: ...


Hold = Callable[[Closeable], None]
Open = Callable[[Hold], Iterator[T]]


class Feed(Generic[T]):
    """Iterate it once, within `async with`. Each `open` is called in its thread; what it hands to `hold` is closed when
    the reader leaves, which ends a read that blocks. The first stream that fails ends the iteration with its error;
    otherwise it ends with the last stream.

    A thread speaks to the loop only under the lock and while the reader is there: then the loop is, too.
    """

    def __init__(self, *opens: Open[T]) -> None:
        self._opens = opens
        self._held: list[Closeable] = []
        self._left = False
        self._lock = threading.Lock()
        self._room = threading.Semaphore(AHEAD)

    async def __aenter__(self) -> AsyncIterator[T]:
        self._loop = asyncio.get_running_loop()
        send, self._receive = anyio.create_memory_object_stream[T | DriverError](inf)  # `_room` bounds it
        self._sends = [send.clone() for _ in self._opens]
        send.close()
        for open, end in zip(self._opens, self._sends, strict=True):
            threading.Thread(target=self._pump, args=(open, end), name="docker stream", daemon=True).start()
        return self._items()

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._left = True
            for stream in self._held:
                _close(stream)
        self._room.release(len(self._opens))
        self._receive.close()
        for send in self._sends:
            send.close()

    async def _items(self) -> AsyncIterator[T]:
        async for item in self._receive:
            self._room.release()
            if isinstance(item, DriverError):
                raise item
            yield item

    def _pump(self, open: Open[T], send: MemoryObjectSendStream[Any]) -> None:
        try:
            for item in open(self._hold):
                if not self._offered(send, item):
                    return
        except DriverError as error:
            self._offered(send, error)
        finally:
            self._tell(send.close)

    def _offered(self, send: MemoryObjectSendStream[Any], item: T | DriverError) -> bool:
        """Whether the reader is there to take it."""
        self._room.acquire()
        return self._tell(_sent, send, item)

    def _tell(self, call: Callable[..., object], *arguments: object) -> bool:
        with self._lock:
            if not self._left:
                self._loop.call_soon_threadsafe(call, *arguments)
            return not self._left

    def _hold(self, stream: Closeable) -> None:
        with self._lock:
            self._held.append(stream)
            if self._left:
                _close(stream)


def _sent(send: MemoryObjectSendStream[Any], item: object) -> None:
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the reader left meanwhile
        send.send_nowait(item)


def _close(stream: Closeable) -> None:
    with contextlib.suppress(Exception):  # half-closed by the other side: closed is all it should be
        stream.close()
