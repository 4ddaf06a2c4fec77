"""The host's side of compose projects: their files, and the compose program, run to its end whatever becomes of us.
Nothing but Python 3.8 is needed.

    <root>/<project>/hold                      held by whoever acts, and by the compose program it has started
    <root>/<project>/lock.yaml                 -> locks/<hash>.yaml, the one that holds; switched by a rename
    <root>/<project>/locks/<hash>.yaml         a lock file, and beside it <hash>.yaml.sha256, as sha256sum checks it
    <root>/<project>/services/<service>/       record.json and sticker.json
    <root>/<project>/compose.log               what compose said last
    <root>/<project>/compose.json              how it ended, and under which key
    <root>/.holdfast/                          this file, where it was brought by another machine

Everything is written under a temporary name, synced and renamed, so that a crash leaves the old or the new.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from drivers.process import host
from drivers.process.host import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from drivers.process.host import Json

PROJECT = re.compile(r"holdfast-[a-z0-9][a-z0-9-]{0,120}")
SERVICE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}(?:\.[a-z0-9][a-z0-9-]{0,62})?")
LOCK = re.compile(r"[0-9a-f]{64}\.yaml")
FILES = ("record.json", "sticker.json")
LARGEST = 1 << 20  # bytes of a file that are read
ASKED = 20.0  # seconds for the program to say its version
ENDS = 10.0  # seconds between asking the program to end and ending it
KNOWN = ("PATH", "HOME", "XDG_RUNTIME_DIR", "TMPDIR")  # of our own environment; no COMPOSE_ or DOCKER_ variable


class Folder:
    """One project's directory."""

    def __init__(self, root: str, project: str) -> None:
        if not os.path.isabs(root) or not PROJECT.fullmatch(project):
            raise Trouble("invalid", f"{project[:80]!r} below {root[:80]!r} is not the directory of a project")
        self.root, self.path = root, f"{root}/{project}"
        self.lock, self.log, self.journal = (
            f"{self.path}/{name}" for name in ("lock.yaml", "compose.log", "compose.json")
        )
        self.locks = f"{self.path}/locks"

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Folder:
        return cls(str(request["root"]), str(request["project"]))

    def place(self, service: str) -> str:
        if not SERVICE.fullmatch(service):
            raise Trouble("invalid", f"{service[:80]!r} is not a service")
        return f"{self.path}/services/{service}"

    def services(self) -> list[str]:
        return [name for name in entries(f"{self.path}/services") if SERVICE.fullmatch(name)]

    def hold(self) -> int:
        """An open file that holds the project until it is closed, here and by whoever inherits it."""
        with told(self.path):
            os.makedirs(self.path, 0o700, exist_ok=True)
            handle = os.open(f"{self.path}/hold", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise Trouble("busy", f"{self.path}: another action, or the compose program it started, is at it") from None
        return handle

    # .. files ..

    def shelf(self, known: Mapping[str, Any]) -> Json:
        """All services with their files, the content of those alone whose mark is not known."""
        return {service: self._files(service, known.get(service) or {}) for service in self.services()}

    def _files(self, service: str, known: Mapping[str, Any]) -> Json:
        found: Json = {}
        for name in FILES:
            path = f"{self.place(service)}/{name}"
            mark = mark_of(path)
            found[name] = {"mark": mark} if known.get(name) == mark else {"mark": mark, "text": text_of(path)}
        return found

    def bare(self, service: str) -> None:
        """The sticker off, and where nothing is recorded any more, the directory of the service with it; after the
        last of them, all that is left of the project."""
        place = self.place(service)
        with told(place):
            _gone(f"{place}/sticker.json")
            if not _recorded(text_of(f"{place}/record.json")):
                shutil.rmtree(place, ignore_errors=True)
            if not self.services():
                for path in (self.lock, self.log, self.journal):
                    _gone(path)
                shutil.rmtree(self.locks, ignore_errors=True)

    # .. lock files ..

    def write_lock(self, content: bytes) -> None:
        """The lock beside the others, its hash beside it, and then the switch to it."""
        digest = hashlib.sha256(content).hexdigest()
        path, line = f"{self.locks}/{digest}.yaml", f"{digest}  {digest}.yaml\n".encode()
        for where, wanted in ((path, content), (f"{path}.sha256", line)):
            if content_of(where, len(wanted) + 1) != wanted:
                write(where, wanted)
        with told(self.lock):
            host.point(self.lock, f"locks/{digest}.yaml")

    def prune(self, keep: int) -> None:
        """The newest locks stay beside the one that holds."""
        with told(self.locks):
            if not os.path.islink(self.lock):
                return
            holds = os.path.basename(os.readlink(self.lock))
            others = [name for name in entries(self.locks) if LOCK.fullmatch(name) and name != holds]
            age = {name: (os.stat(f"{self.locks}/{name}").st_mtime_ns, name) for name in others}
            for name in sorted(others, key=age.__getitem__, reverse=True)[keep:]:
                _gone(f"{self.locks}/{name}")
                _gone(f"{self.locks}/{name}.sha256")


def mark_of(path: str) -> list[int]:
    """Another one whenever the file is written."""
    try:
        seen = os.stat(path)
    except OSError:
        return [0, 0, 0]
    return [seen.st_ino, seen.st_mtime_ns, seen.st_size]


def text_of(path: str) -> str | None:
    content = content_of(path, LARGEST)
    return None if content is None else content.decode(errors="replace")


def content_of(path: str, most: int) -> bytes | None:
    with told(path):
        try:
            with open(path, "rb") as file:
                return file.read(most)
        except (FileNotFoundError, NotADirectoryError):
            return None


def write(path: str, content: bytes) -> None:
    with told(path):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        host.write_file(path, content, 0o600)


def entries(directory: str) -> list[str]:
    with told(directory):
        try:
            return sorted(entry for entry in os.listdir(directory) if not entry.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _recorded(record: str | None) -> bool:
    """Whether the record says that something was made; one that cannot be read counts as none."""
    try:
        return bool(record and json.loads(record)["piece"])
    except (ValueError, LookupError, TypeError):
        return False


def _gone(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """What the file system refuses, in our words."""
    try:
        yield
    except PermissionError:
        raise Trouble("refused", f"{path} may not be used by the user Holdfast is there") from None
    except OSError as error:
        raise Trouble("unreachable", f"{path}: {os.strerror(error.errno or 0)}") from None


# -- the program -------------------------------------------------------------------------------------------------------


def program(candidates: Sequence[Sequence[str]]) -> Json:
    """The first that says its version, in its own words; `said` None: there is none."""
    for words in candidates:
        argv = [str(word) for word in words]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = [*argv, "version", "--short"]
            answer = subprocess.run(
                asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASKED, check=True, env=surroundings({})
            )
            return {"argv": argv, "said": answer.stdout.decode(errors="replace").strip()}
    return {"argv": [], "said": None}


def surroundings(values: Mapping[str, Any]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KNOWN if name in os.environ}
    own = {"LANG": "C.UTF-8", "COMPOSE_IGNORE_ORPHANS": "1"}
    return {**kept, **own, **{str(name): str(value) for name, value in values.items()}}


# -- requests of the driver --------------------------------------------------------------------------------------------


class Session(host.Session):
    """One holder's requests; the projects it holds are held until `close`, or until compose has ended there."""

    at_once = ("look",)

    def knows(self, do: str) -> bool:
        return do in VERBS

    def look(self, request: Mapping[str, Any]) -> Json:
        return {"targets": [self._seen(ask) for ask in request["targets"]]}

    def _seen(self, ask: Mapping[str, Any]) -> Json:
        """One that cannot be read keeps nobody from the others."""
        try:
            return {"services": Folder.of(ask).shelf(ask.get("known") or {})}
        except Trouble as trouble:
            return {"unseen": str(trouble)}

    def examine(self, request: Mapping[str, Any]) -> Json:
        """Whether the files of a project can be written, and how much room is there."""
        root = str(request["root"])
        there = host.nearest(root)
        writable = os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)
        sandbox = host.sandboxed() if request.get("sandbox") else None
        return {"nearest": there, "writable": writable, "disk": host.room_at(root), "sandbox": sandbox}

    def program(self, request: Mapping[str, Any]) -> Json:
        return program(request["candidates"])

    def hold(self, request: Mapping[str, Any]) -> Json:
        """Take the project, or Busy; answers how compose ended there last."""
        folder = Folder.of(request)
        if folder.path not in self.locks:
            self.locks[folder.path] = folder.hold()
            host.keep_own_file(folder.root)
        try:
            last = json.loads(text_of(folder.journal) or "null")
        except ValueError:
            last = None
        return {"last": last}

    def records(self, request: Mapping[str, Any]) -> Json:
        folder = Folder.of(request)
        services = folder.services() if request.get("service") is None else [str(request["service"])]
        return {"records": {service: text_of(f"{folder.place(service)}/record.json") for service in services}}

    def neighbours(self, request: Mapping[str, Any]) -> Json:
        """The records of all projects of this root: several may stand on one engine."""
        root = Folder.of(request).root
        folders = [Folder(root, name) for name in entries(root) if PROJECT.fullmatch(name)]
        paths = [f"{folder.place(service)}/record.json" for folder in folders for service in folder.services()]
        return {"records": [text_of(path) for path in paths]}

    def worn(self, request: Mapping[str, Any]) -> Json:
        return {"text": text_of(f"{Folder.of(request).place(str(request['service']))}/sticker.json")}

    def write(self, request: Mapping[str, Any]) -> Json:
        name = str(request["name"])
        if name not in FILES:
            raise Trouble("invalid", f"{name[:80]!r} is no file of a service")
        write(f"{self._mine(request).place(str(request['service']))}/{name}", str(request["content"]).encode())
        return {}

    def write_lock(self, request: Mapping[str, Any]) -> Json:
        self._mine(request).write_lock(str(request["content"]).encode())
        return {}

    def prune(self, request: Mapping[str, Any]) -> Json:
        self._mine(request).prune(int(request["keep"]))
        return {}

    def bare(self, request: Mapping[str, Any]) -> Json:
        self._mine(request).bare(str(request["service"]))
        return {}

    def compose(self, request: Mapping[str, Any]) -> Json:
        """Begin the program, which holds the project until it has ended. Values are in its environment alone."""
        folder = self._mine(request)
        ask = {
            "argv": [str(word) for word in request["argv"]],
            "cwd": folder.path,
            "env": surroundings({**request["values"], "DOCKER_HOST": request["engine"]}),
            "within": float(request["within"]),
            "grace": ENDS,
            "log": folder.log,
            "result": folder.journal,
            "token": str(request["key"]),
            "holds": True,
        }
        return {"token": self._begin(ask, self.locks[folder.path])}

    def _lock(self, request: Mapping[str, Any]) -> int:
        return self.locks[self._mine(request).path]

    def _mine(self, request: Mapping[str, Any]) -> Folder:
        folder = Folder.of(request)
        if folder.path not in self.locks:
            raise Trouble("invalid", f"{folder.path} is changed without holding it")
        return folder


LOOKING = ("look", "examine", "program", "records", "neighbours", "worn", "ran")
VERBS = frozenset((*LOOKING, "hold", "run", "write", "write_lock", "prune", "bare", "compose"))


def main(arguments: Sequence[str]) -> int:
    """The requests of another machine, or those on standard input one after the other."""
    if list(arguments) == ["session"]:
        return host.session(Session())
    if list(arguments) == ["serve"]:
        eyes = host.Eyes()
        host.Desk(lambda _: Session(eyes), eyes).serve()
    sys.stderr.write("usage: holdfast.py session | serve\n")
    return 2
