"""One program on a host, kept and asked in JSON lines. Requests are pipelined; answers come as they are ready."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import asyncssh

from drivers.errors import DriverError, InvalidAction, Refused, Unreachable
from drivers.ssh.errors import Cut, NoPython, Silent

LARGEST_ANSWER: Final = 128 << 20  # bytes of one line
NOISE: Final = 64 << 10  # bytes of a login's own words that are passed over before the program's first
WORDS: Final = 2000  # bytes of standard error that are kept for a sentence
PIECE: Final = 256 << 10
BEAT: Final = 10.0  # seconds between two signs of life to a program that holds locks for us

# All that a shell on the host ever sees. It reads which Python to run, and Python what to do, from standard input.
LINE: Final = (
    "exec /bin/sh -c 'IFS= read -r python; "
    'exec "$python" -I -S -c "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"\''
)

# Runs before anything else, on any Python 3: takes the program from a file that holds exactly it and that nobody else
# can write, nor put compiled code beside, or from the line.
LOADER: Final = b"""\
import sys
if sys.version_info < (3, 8):
    sys.stderr.write("Python 3.8 or newer is needed, this is %d.%d" % sys.version_info[:2])
    sys.exit(3)
import hashlib, json, os, stat
pipe, out = sys.stdin.buffer, sys.stdout.buffer
ask = json.loads(pipe.readline().decode())
def ours(path, kind):
    found = os.lstat(path)
    return kind(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o22
def kept():
    for path in ask["kept"]:
        folder, name = os.path.split(path)
        try:
            if not (ours(folder, stat.S_ISDIR) and ours(path, stat.S_ISREG)):
                continue
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == ask["digest"]:
            sys.path.insert(0, folder)
            return __import__(name[:-3])
module = kept()
machine = {"holdfast": 1, "send": module is None, "machine": os.uname().machine, "version": list(sys.version_info[:3])}
out.write(json.dumps(machine).encode() + b"\\n")
out.flush()
if module is None:
    import zlib
    content = zlib.decompress(pipe.read(ask["size"]))
    module = type(sys)("holdfast_far")
    sys.modules["holdfast_far"] = module
    exec(compile(content, "holdfast_far.py", "exec"), module.__dict__)
    module.SOURCE = content
sys.exit(module.main(ask["arguments"]))
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One stdlib-only file that is brought to hosts, known by its digest."""

    source: bytes

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.source).hexdigest()

    @cached_property
    def packed(self) -> bytes:
        return zlib.compress(self.source, 9)

    @property
    def file(self) -> str:
        """The name under which a host keeps it."""
        return f"holdfast_{self.digest[:16]}.py"


@cache
def program(path: str) -> Program:
    return brought(Path(path).read_bytes())


@lru_cache(maxsize=16)
def brought(source: bytes) -> Program:
    """One for all hosts: packing it takes longer than everything else that is done for one of them."""
    return Program(source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which program is to be started, by which Python, and where the host may have kept it."""

    program: Program
    python: str = "python3"
    arguments: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def opening(self) -> bytes:
        if "\n" in self.python or "\0" in self.python:
            raise InvalidAction(f"python {self.python[:80]!r} is not the name of a program")
        ask = {
            "digest": self.program.digest,
            "size": len(self.program.packed),
            "kept": list(self.kept),
            "arguments": list(self.arguments),
        }
        first = f"{self.python}\n{len(LOADER)}\n".encode()
        return first + LOADER + json.dumps(ask).encode() + b"\n"


def _is_late(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


class Wire(asyncssh.SSHClientSession[bytes]):
    """A program that runs and answers. Lost once, it is lost for good, and everybody who waits is told why."""

    def __init__(self, name: str, order: Order) -> None:
        self.name, self.order = name, order
        self.lost: DriverError | None = None
        self.machine = ""
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._loop = asyncio.get_running_loop()
        self._stands: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._heard, self._noise, self._words = bytearray(), 0, b""
        self._code: int | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._turn = asyncio.Lock()
        self._holds = 0
        self._beat: asyncio.TimerHandle | None = None

    # -- asking ------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._holds)

    async def ask(self, request: Mapping[str, Any], *, within: float, body: bytes = b"") -> Mapping[str, Any]:
        """The answer, as the program words it. Raises `Cut` when the connection is lost before it came, `Silent` when
        it does not come in time; in both cases whether it was done is not known."""
        self._must_stand()
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = self._loop.create_future()
        self._waiting[number] = answer
        late = self._loop.call_later(within, _is_late, answer)  # asyncio.timeout costs several times that
        try:
            head = {**request, "id": number} if not body else {**request, "id": number, "bytes": len(body)}
            line = json.dumps(head).encode() + b"\n"
            if body or self._turn.locked():
                async with asyncio.timeout(within):
                    await self._send(line, body)
            else:
                self._write(line)
            return await answer
        except TimeoutError:
            self.tell({"do": "end", "of": number})
            raise Silent(f"{self.name} did not answer within {within:g} s") from None
        except asyncio.CancelledError:
            self.tell({"do": "end", "of": number})
            raise
        finally:
            late.cancel()
            del self._waiting[number]
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen: where sending itself failed nobody has waited for it

    def tell(self, request: Mapping[str, Any]) -> None:
        """Something that has no answer."""
        if self.lost is None and self._channel is not None and not self._turn.locked():
            self._channel.write(json.dumps(request).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        assert self._channel is not None
        self._channel.write(line)

    async def _send(self, line: bytes, body: bytes) -> None:
        """Begun, a body is sent to its end: what came next would be taken for the rest of it."""
        await asyncio.shield(self._loop.create_task(self._send_all(line, body)))

    async def _send_all(self, line: bytes, body: bytes) -> None:
        assert self._channel is not None
        async with self._turn:
            if self.lost is None:
                self._channel.write(line)
            for at in range(0, len(body), PIECE):
                await self._room.wait()
                if self.lost is not None:
                    return
                self._channel.write(body[at : at + PIECE])

    def _must_stand(self) -> None:
        if self.lost is not None:
            raise type(self.lost)(*self.lost.args)

    def hold(self) -> None:
        """From now on the program keeps something for us, and is told at times that we are still there."""
        self._holds += 1
        if self._beat is None:
            self._beat = self._loop.call_later(BEAT, self._pulse)

    def let_go(self) -> None:
        self._holds -= 1

    def _pulse(self) -> None:
        self._beat = None
        if self._holds and self.lost is None:
            self.tell({"do": "beat"})
            self._beat = self._loop.call_later(BEAT, self._pulse)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    # -- its beginning -----------------------------------------------------------------------------------------------

    async def stand(self) -> None:
        """Returns when the program runs."""
        await asyncio.shield(self._stands)

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        assert self._channel is not None
        self._channel.write(self.order.opening())

    def _greeted(self, line: bytes) -> None:
        """What a login prints by itself is passed over until the loader's first word."""
        if not line.startswith(b'{"holdfast"'):
            self._noise += len(line)
            if self._noise > NOISE:
                self._give_up(Refused(f"{self.name} prints much and runs nothing of ours"))
            return
        said = json.loads(line)
        self.machine = str(said["machine"])
        if said["send"]:
            assert self._channel is not None
            self._channel.write(self.order.program.packed)
        if not self._stands.done():
            self._stands.set_result(None)

    # -- what comes --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None:
            self._words = (self._words + data)[-WORDS:]
            return
        *lines, rest = data.split(b"\n")
        if lines:
            first, self._heard = bytes(self._heard + lines[0]), bytearray(rest)
            for line in (first, *lines[1:]):
                self._line(line)
        else:
            self._heard += rest
            if len(self._heard) > LARGEST_ANSWER:
                self._give_up(Refused(f"{self.name} answers with more than {LARGEST_ANSWER >> 20} MiB"))

    def _line(self, line: bytes) -> None:
        if not self._stands.done():
            self._greeted(line)
            return
        try:
            answer = json.loads(line)
            waiting = self._waiting.get(answer["id"])
        except (ValueError, LookupError, TypeError):
            self._give_up(Refused(f"{self.name}: what answers is not our program: {line[:80]!r}"))
            return
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def exit_status_received(self, status: int) -> None:
        self._code = status

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stands.done():
            self._lose(self._not_begun())
        else:
            self._lose(Cut(f"{self.name}: the connection was lost; what was asked for is to be looked at"))

    def _not_begun(self) -> DriverError:
        """Why the program did not come to run, before anything was asked of it."""
        said = self._words.decode(errors="replace").strip().splitlines()
        last = said[-1][:200] if said else "nothing was said"
        if self._code is None:
            return Unreachable(f"{self.name}: the connection was lost before anything was asked for")
        if self._code == 3:
            return NoPython(f"{self.name}: {self.order.python}: {last}")
        return NoPython(f"{self.name}: {self.order.python} does not run there: {last} (exit code {self._code})")

    def _give_up(self, reason: DriverError) -> None:
        self._lose(reason)
        self.close()

    def _lose(self, reason: DriverError) -> None:
        if self.lost is None:
            self.lost = reason
        self._room.set()
        if self._beat is not None:
            self._beat.cancel()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self.lost)
        if not self._stands.done():
            self._stands.set_exception(self.lost)
            self._stands.exception()  # seen, whether or not anybody waits


async def start(connection: asyncssh.SSHClientConnection, name: str, order: Order, within: float) -> Wire:
    """Run the program on the host; raises `NoPython`, `Unreachable`, `Silent` or `Refused`."""
    order.opening()
    made: Callable[[], Wire] = lambda: Wire(name, order)  # noqa: E731 - asyncssh takes a factory
    try:
        async with asyncio.timeout(within):
            channel, wire = await connection.create_session(made, LINE, encoding=None, request_pty=False)
            assert isinstance(wire, Wire)
            try:
                await wire.stand()
            except BaseException:
                channel.close()
                raise
            return wire
    except TimeoutError:
        raise Silent(f"{name} started nothing within {within:g} s") from None
    except asyncssh.ChannelOpenError as error:
        raise Refused(f"{name} opens no session: {error.reason}") from None
    except (asyncssh.Error, OSError) as error:
        raise Unreachable(f"{name}: the connection was lost before anything was asked for: {error}") from None


def answer_of(answer: Mapping[str, Any], errors: Sequence[tuple[str, type[DriverError]]]) -> Mapping[str, Any]:
    """What was answered, or the driver's error that the program's own stands for."""
    error = answer.get("error")
    if error is None:
        found: Mapping[str, Any] = answer["answer"]
        return found
    raise dict(errors).get(error["code"], Refused)(error["text"])
