"""The host's side of the SSH transport, in one file that needs nothing but Python 3.8: it runs programs, and writes and
reads files, as JSON lines on its standard input ask for. Nothing here goes through a shell.

A program runs in a session of its own. What does not end in time is ended with its whole process group, and so is
whatever still runs when the connection is gone. A file is written beside its place, compared with its digest, brought
to the disk and renamed; no path leaves the directory that the request names, not through a link either.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    Json = dict[str, Any]

GRACE = 2.0  # seconds between asking a group to end and killing it
LINGER = 0.5  # seconds that the output of a program that has ended is still read: others may hold its pipes
PIECE = 1 << 16

_numbers = itertools.count()


class Trouble(Exception):
    """What the host will not or cannot do: `code` is refused or invalid."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


# -- programs ----------------------------------------------------------------------------------------------------------


class Output:
    """What a program prints, up to a limit; the rest is read and forgotten, so that nothing blocks."""

    def __init__(self, pipe: BinaryIO, limit: int) -> None:
        self.content, self.limit, self.cut = bytearray(), limit, False
        self.pipe = pipe
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for piece in iter(lambda: os.read(self.pipe.fileno(), PIECE), b""):
                room = self.limit - len(self.content)
                self.cut = self.cut or len(piece) > room
                self.content += piece[: max(0, room)]

    def text(self) -> str:
        self.thread.join(LINGER)
        return base64.b64encode(bytes(self.content)).decode()


class Programs:
    """What runs now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.groups: dict[int, int] = {}  # request -> process group
        self.ending = False

    def run(self, ask: Mapping[str, Any], content: bytes) -> Json:
        argv = [str(word) for word in ask["argv"]]
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=ask.get("cwd") or "/",
                env=None if ask.get("env") is None else dict(ask["env"]),
                start_new_session=True,
            )
        except OSError as error:
            raise Trouble("refused", f"{argv[0][:120]} cannot be run: {error.strerror}") from None
        with self._listed(int(ask["id"]), child.pid):
            return self._watched(child, content, ask)

    @contextlib.contextmanager
    def _listed(self, id: int, group: int) -> Iterator[None]:
        with self.lock:
            self.groups[id] = group
            late = self.ending
        if late:
            end(group, now=True)
        try:
            yield
        finally:
            with self.lock:
                del self.groups[id]

    def _watched(self, child: subprocess.Popen[bytes], content: bytes, ask: Mapping[str, Any]) -> Json:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        outputs = [Output(pipe, int(ask["limit"])) for pipe in (child.stdout, child.stderr)]  # type: ignore[arg-type]
        threading.Thread(target=_feed, args=(child.stdin, content), daemon=True).start()
        late = False
        try:
            child.wait(float(ask["timeout"]))
        except subprocess.TimeoutExpired:
            late = True
            end(child.pid)
            child.wait()
        found = [output.text() for output in outputs]
        for pipe in (child.stdout, child.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        return {
            "exit_code": None if late else child.returncode,
            "stdout": found[0],
            "stderr": found[1],
            "cut": any(output.cut for output in outputs),
        }

    def end(self, id: int) -> None:
        """Whoever asked for this has gone."""
        with self.lock:
            group = self.groups.get(id)
        if group is not None:
            end(group, now=True)

    def end_all(self) -> None:
        with self.lock:
            self.ending = True
            groups = list(self.groups.values())
        for group in groups:
            end(group, now=True)


def _feed(pipe: BinaryIO, content: bytes) -> None:
    with contextlib.suppress(OSError), pipe:
        pipe.write(content)


def end(group: int, *, now: bool = False) -> None:
    """The whole group: asked first, unless it is to be now, and then killed. Its leader is our child and not reaped, so
    that its number is nobody else's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not now:
            os.killpg(group, signal.SIGTERM)
            until = time.monotonic() + GRACE
            while time.monotonic() < until and not _gone(group):
                time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)


def _gone(group: int) -> bool:
    """Whether nobody of the group but a leader that waits to be reaped is left."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
                if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
                    return False
    return True


# -- files -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder(root: str, parts: Sequence[str], *, make: bool) -> Iterator[int]:
    """A handle of the directory below the root, reached step by step and never through a link."""
    if not os.path.isabs(root) or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise Trouble("invalid", f"{'/'.join(parts)[:120]!r} is not a path below {root[:120]!r}")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = os.open(root, flags)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=handle)
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    except OSError as error:
        reason = "a link is in the way" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
        raise Trouble("refused", f"{root}/{'/'.join(parts)}: {reason}") from None
    finally:
        os.close(handle)


def put(ask: Mapping[str, Any], body: Iterator[bytes]) -> Json:
    """The whole content or none of it, whenever this is cut off. The body is read to its end whatever happens."""
    try:
        *parents, name = str(ask["path"]).split("/")
        with folder(str(ask["root"]), [*parents, name][:-1], make=True) as place:
            if name in ("", ".", "..") or "\0" in name:
                raise Trouble("invalid", f"{str(ask['path'])[:120]!r} names no file")
            _write(place, name, ask, body)
        return {}
    finally:
        for _ in body:
            pass


def _write(place: int, name: str, ask: Mapping[str, Any], body: Iterator[bytes]) -> None:
    temporary = f".{name}.{os.getpid()}.{next(_numbers)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600, dir_fd=place)
    try:
        summer = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            for piece in body:
                summer.update(piece)
                file.write(piece)
            if summer.hexdigest() != ask["sha256"]:
                raise Trouble("refused", f"{name}: what arrived is not what was sent")
            file.flush()
            os.fchmod(handle, int(ask["mode"]))
            os.fsync(handle)
        os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
        os.fsync(place)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place)
        raise


def get(ask: Mapping[str, Any]) -> Json:
    *parents, name = str(ask["path"]).split("/")
    with folder(str(ask["root"]), parents, make=False) as place:
        if name in ("", ".", "..") or "\0" in name:
            raise Trouble("invalid", f"{str(ask['path'])[:120]!r} names no file")
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        except FileNotFoundError:
            return {"content": None}
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Trouble("refused", f"{name} is not a regular file")
            if found.st_size > int(ask["limit"]):
                raise Trouble("refused", f"{name} has {found.st_size} bytes, at most {ask['limit']} are read")
            return {"content": base64.b64encode(file.read(int(ask["limit"]))).decode()}


# -- requests ----------------------------------------------------------------------------------------------------------


class Desk:
    """Answers requests as they are done, in no order; `body` is what follows a request line raw."""

    def __init__(self, pipe: BinaryIO, out: BinaryIO) -> None:
        self.pipe, self.out = pipe, out
        self.turn = threading.Lock()
        self.programs = Programs()

    def serve(self) -> None:
        try:
            for line in self.pipe:
                self._take(json.loads(line))
        except EOFError:
            pass
        finally:
            self.programs.end_all()

    def _take(self, ask: Json) -> None:
        verb = ask.get("do")
        if verb == "end":
            self.programs.end(int(ask["of"]))
        elif verb == "put":
            self._answer(ask, lambda: put(ask, self._body(int(ask["bytes"]))))
        elif verb == "get":
            self._answer(ask, lambda: get(ask))
        elif verb == "run":
            content = b"".join(self._body(int(ask.get("bytes", 0))))
            work = threading.Thread(target=self._answer, args=(ask, lambda: self.programs.run(ask, content)))
            work.daemon = True
            work.start()

    def _body(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self.pipe.read(min(size, PIECE))
            if not piece:
                raise EOFError
            size -= len(piece)
            yield piece

    def _answer(self, ask: Json, work: Any) -> None:
        try:
            found: Json = {"answer": work()}
        except Trouble as trouble:
            found = {"error": {"code": trouble.code, "text": str(trouble)}}
        except OSError as error:
            found = {"error": {"code": "refused", "text": error.strerror or str(error)}}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            found = {"error": {"code": "invalid", "text": f"not a request: {type(error).__name__}"}}
        with self.turn, contextlib.suppress(OSError, ValueError):
            self.out.write(json.dumps({"id": ask.get("id"), **found}).encode() + b"\n")
            self.out.flush()


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Desk(sys.stdin.buffer, sys.stdout.buffer).serve()
    return 0
