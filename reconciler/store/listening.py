"""Being woken over PostgreSQL: one connection that only listens, and many words in one `NOTIFY`.

What is told is keys and nothing else: whoever hears one looks into the tables. A lost word costs one round of polling.
The connection is direct, since a pooler that hands out servers by the transaction cannot listen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

import anyio
from sqlalchemy import Connection, make_url, text

CHANNEL: Final = "holdfast"
ROOM: Final = 7_900  # bytes of one notification; PostgreSQL takes 7,999
QUIET: Final = 10.0  # seconds without a word, after which the line is tried
ANSWERS: Final = 5.0  # seconds that the line has to answer


def tell(c: Connection, words: Iterable[str]) -> None:
    """At the end of this transaction, to everybody who listens."""
    for payload in _packed(words):
        c.execute(text("select pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload})


def _packed(words: Iterable[str]) -> Iterator[str]:
    """As few payloads as hold them; a word has no line break."""
    packed: list[str] = []
    room = ROOM
    for word in words:
        size = len(word.encode()) + 1
        if size > room and packed:
            yield "\n".join(packed)
            packed, room = [], ROOM
        packed.append(word)
        room -= size
    if packed:
        yield "\n".join(packed)


async def heard(address: str) -> AsyncIterator[tuple[str, ...]]:
    """The words as they come; first none at all, when everything said from now on is heard. Ends by an error when the
    line is lost."""
    import psycopg

    with anyio.fail_after(ANSWERS):
        line = await psycopg.AsyncConnection.connect(autocommit=True, client_encoding="utf8", **_plain(address))
    try:
        with anyio.fail_after(ANSWERS):
            await line.execute(f"listen {CHANNEL}".encode())
        yield ()
        while True:
            async for word in line.notifies(timeout=QUIET):
                yield tuple(word.payload.split("\n"))
            with anyio.fail_after(ANSWERS):
                await line.execute(b"select 1")
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(ANSWERS):
            await line.close()


def _plain(address: str) -> dict[str, Any]:
    """As the driver is told it: of several hosts too."""
    url = make_url(address).set(drivername="postgresql+psycopg")
    _, given = url.get_dialect()().create_connect_args(url)
    return dict(given)
