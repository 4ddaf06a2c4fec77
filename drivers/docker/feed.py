"""Blocking streams of engines as one async iterator: a thread for each, all ended when their reader leaves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

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
    otherwise it ends with the last stream."""

    def __init__(self, *opens: Open[T]) -> None:
        self._opens = opens
        self._held: list[Closeable] = []
        self._left = False
        self._lock = threading.Lock()

    async def __aenter__(self) -> AsyncIterator[T]:
        send, self._receive = anyio.create_memory_object_stream[T | DriverError](AHEAD)
        self._token = anyio.lowlevel.current_token()
        for open in self._opens:
            arguments = (open, send.clone())
            threading.Thread(target=self._pump, args=arguments, name="docker stream", daemon=True).start()
        send.close()
        return self._items(self._receive)

    async def __aexit__(self, *_: object) -> None:
        self._receive.close()
        with self._lock:
            self._left = True
            for stream in self._held:
                _close(stream)

    async def _items(self, receive: MemoryObjectReceiveStream[Any]) -> AsyncIterator[T]:
        async for item in receive:
            if isinstance(item, DriverError):
                raise item
            yield item

    def _pump(self, open: Open[T], send: MemoryObjectSendStream[Any]) -> None:
        try:
            for item in open(self._hold):
                anyio.from_thread.run(send.send, item, token=self._token)
        except DriverError as error:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.RunFinishedError):
                anyio.from_thread.run(send.send, error, token=self._token)
        except (anyio.BrokenResourceError, anyio.RunFinishedError):
            pass  # the reader has left, or the loop has
        finally:
            self._end(send)

    def _end(self, send: MemoryObjectSendStream[Any]) -> None:
        try:
            anyio.from_thread.run_sync(send.close, token=self._token)
        except anyio.RunFinishedError:
            send.close()

    def _hold(self, stream: Closeable) -> None:
        with self._lock:
            self._held.append(stream)
            if self._left:
                _close(stream)


def _close(stream: Closeable) -> None:
    with contextlib.suppress(Exception):  # half-closed by the other side: closed is all it should be
        stream.close()
