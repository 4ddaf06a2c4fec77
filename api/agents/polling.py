"""Agents that poll: the same frames, in answers to requests. A channel lives as long as somebody asks for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from api.agents.session import Session, Turn, Why
from api.agents.switchboard import Switchboard
from api.agents.talk import hello
from drivers.agent import protocol
from drivers.agent.channels import polls
from drivers.agent.channels.polls import LONGEST_WAIT, Line, Overrun, Poll, Polled
from drivers.agent.protocol import LARGEST_FRAME, Malformed

if TYPE_CHECKING:
    from api.agents.exchange import Exchange


class Polls:
    """The polls of one door that wait for something to be said."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self.waiting: dict[Polling, float] = {}

    def asked(self, exchange: Exchange, serial: int, body: bytes) -> None:
        """Answer it now, or when there is something to say. Raises `Turn`."""
        member = self._switchboard.member(serial)
        try:
            poll = polls.read_poll(body)
        except Malformed as error:
            raise Turn(Why.MALFORMED, str(error)) from None
        session = self._switchboard.session(member.agent)
        way = session.way if session is not None else None
        if isinstance(way, Polling) and way.line == poll.line and way.serial == serial:
            way.asked(exchange, poll, len(body))
        else:
            self._greet(exchange, serial, poll)

    def sweep(self, now: float) -> None:
        """Answer those that have waited long enough."""
        for way in [one for one, until in self.waiting.items() if until <= now]:
            way.flush()

    def _greet(self, exchange: Exchange, serial: int, poll: Poll) -> None:
        if poll.first != 1 or not poll.frames:
            raise Turn(Why.GONE, "this channel is known no more; begin another with a hello")
        way = Polling(self, self._switchboard, exchange.peer, poll.line, serial)
        way.session = self._switchboard.greet(way, serial, hello(poll.frames[0].encode()))
        way.greeted()
        way.asked(exchange, poll, 0)


class Polling:
    """One agent's channel; a `Way`."""

    __slots__ = ("_exchange", "_numbered", "_polls", "_soon", "_switchboard", "line", "peer", "serial", "session")
    session: Session

    def __init__(self, of: Polls, switchboard: Switchboard, peer: str, line: str, serial: int) -> None:
        self._polls, self._switchboard = of, switchboard
        self.peer, self.line, self.serial = peer, line, serial
        self._numbered = Line()
        self._exchange: Exchange | None = None
        self._soon = False

    @property
    def name(self) -> str:
        return "polling"

    def greeted(self) -> None:
        """The first frame has been read."""
        self._numbered.got = 1

    def asked(self, exchange: Exchange, poll: Poll, size: int) -> None:
        """Read what it brings, and answer with what there is, or wait for it. Raises `Turn`."""
        try:
            self._numbered.has_come(poll.got)
            fresh = self._numbered.fresh(poll.first, poll.frames)
            self._switchboard.polled(self.session, self, size)
            for text in fresh:
                self._switchboard.receive(self.session, self, text.encode())
        except Malformed as error:
            raise self._ended(Turn(Why.MALFORMED, str(error))) from None
        except Turn as turn:
            raise self._ended(turn) from None
        if poll.wait <= 0:
            self._answer(exchange)
            return
        self.flush()
        exchange.way, self._exchange = self, exchange
        self._polls.waiting[self] = time.monotonic() + min(poll.wait, LONGEST_WAIT)
        if self._numbered:
            self.flush()

    def flush(self) -> None:
        """Answer whoever waits."""
        self._soon = False
        if exchange := self._let_go():
            self._answer(exchange)

    def gone(self, exchange: Exchange) -> None:
        """Whoever waited has hung up; what waits for him is kept for his next poll."""
        if self._exchange is exchange:
            self._let_go()

    def put(self, text: bytes) -> None:
        try:
            self._numbered.put(text.decode())
        except Overrun as error:
            self.close(Turn(Why.DEAF, str(error)))
            return
        if self._exchange is not None and not self._soon:
            self._soon = True  # with whatever else is said in this turn of the loop
            asyncio.get_running_loop().call_soon(self.flush)

    def close(self, why: Turn) -> None:
        self._switchboard.lost(self.session, self)
        if exchange := self._let_go():
            exchange.answer(why.why.status, protocol.text(why.frame).encode())

    def _answer(self, exchange: Exchange) -> None:
        first, frames = self._numbered.waiting(LARGEST_FRAME)
        exchange.answer(200, polls.written(Polled(got=self._numbered.got, first=first, frames=frames)))

    def _let_go(self) -> Exchange | None:
        exchange, self._exchange = self._exchange, None
        self._polls.waiting.pop(self, None)
        if exchange is not None:
            exchange.way = None
        return exchange

    def _ended(self, turn: Turn) -> Turn:
        self.close(turn)
        return turn
