"""A Windows of services and files in memory, and the helper's side of its protocol as `holdfast.ps1` has it.

It stands in for PowerShell, which does not run here: what it shows is that driver and protocol fit together. Whether
the script does the same on Windows is shown by the run against a real host alone.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import json
import queue
import re
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drivers.windows import program

COMMANDS = {"": program.line(), "runner": program.line(program.RUNNER)}
NAMES = {
    "folder": r"[a-z0-9][a-z0-9.-]*",
    "release": r"[0-9a-f]{16}",
    "service": r"holdfast-[0-9a-f]{12}-[a-z0-9.-]+-[0-9a-f]{16}",
    "file": r"sticker\.json|record\.json|result\.json",
}


class Trouble(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Service:
    command: str
    account: str
    display: str = ""
    environment: list[str] = field(default_factory=list)
    restarts: bool = False
    state: str = "Stopped"
    start_mode: str = "Manual"
    exit_code: int = 0
    pid: int = 0
    started_ms: int | None = None


@dataclass
class Place:
    files: dict[str, str] = field(default_factory=dict)
    fence: int = 0
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    incoming: bytes = b""


@dataclass
class Root:
    owner: tuple[str, str]
    places: dict[str, Place] = field(default_factory=dict)


@dataclass
class App:
    """What somebody's own tool has started."""

    artifact: str
    version: str
    character: str
    key: str
    port: int
    pid: int
    up: bool
    started_at: float


Command = Callable[["World", str, Mapping[str, Any]], tuple[int | None, str]]


class World:
    """One Windows. `stubborn` services do not stop when asked, `broken` ones do not start."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.roots: dict[str, Root] = {}
        self.services: dict[str, Service] = {}
        self.held: dict[tuple[str, str], Helper] = {}
        self.running: set[tuple[str, str]] = set()  # places where a command that was ordered has not ended
        self.apps: dict[str, App] = {}  # by the directory in which a tool keeps it
        self.programs: dict[str, Command] = {}
        self.broken: set[str] = set()  # versions
        self.administrator = True
        self.powershell = "5.1.17763.1"
        self.asked: list[str] = []
        self.hangs = threading.Event()  # a request is taken and not answered
        self.brings_slowly = 0.0
        self.skew_ms = 0
        self._pids = itertools.count(4000, 4)

    # -- what people do there ----------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        service = self.services[name]
        if self.version(name) in self.broken:
            raise Trouble("refused", f"Cannot start service {name} on computer '.'.")
        service.state, service.pid, service.exit_code = "Running", next(self._pids), 0
        service.started_ms = int(time.time() * 1000)

    def stop(self, name: str) -> None:
        service = self.services[name]
        service.state, service.pid, service.started_ms = "Stopped", 0, None

    def version(self, name: str) -> str:
        """Which version the service's command runs: whatever lies in the tree that it names."""
        tree = self.tree(self.services[name].command)
        return tree.get("version", b"unknown good").decode().split()[0]

    def character(self, name: str) -> str:
        return self.tree(self.services[name].command).get("version", b"unknown good").decode().split()[1]

    def tree(self, command: str) -> dict[str, bytes]:
        for path, root in self.roots.items():
            for folder, place in root.places.items():
                for id, release in place.releases.items():
                    if f"{path}\\{folder}\\releases\\{id}\\tree\\" in command:
                        return dict(release["tree"])
        return {}

    def port(self, service: Service) -> int:
        said = dict(line.split("=", 1) for line in service.environment)
        return int(said.get("PORT", 0))

    def listeners(self) -> dict[int, str]:
        return {
            self.port(one): name for name, one in self.services.items() if one.state == "Running" and self.port(one)
        }

    def answering(self, port: int) -> tuple[str, str] | None:
        """Which version, of which character, answers on the port."""
        name = self.listeners().get(port)
        if name is not None:
            return self.version(name), self.character(name)
        return next(((one.version, one.character) for one in self.apps.values() if one.up and one.port == port), None)

    # -- requests ----------------------------------------------------------------------------------------------------

    def answer(self, helper: Helper, ask: dict[str, Any]) -> dict[str, Any]:
        verb = str(ask["do"])
        self.asked.append(verb)
        while self.hangs.is_set() and not helper.ended.is_set():
            time.sleep(0.01)
        try:
            if verb not in VERBS:
                raise Trouble("invalid", "that is no request")
            if verb in ("exchange", "ask", "awaited"):
                return {"answer": VERBS[verb](self, helper, ask)}
            with self.lock:
                return {"answer": VERBS[verb](self, helper, ask)}
        except Trouble as trouble:
            return {"error": {"code": trouble.code, "text": str(trouble)}}

    def root(self, ask: Mapping[str, Any]) -> str:
        path = str(ask["root"])
        if not re.match(r"[A-Za-z]:\\", path) or ".." in path.split("\\"):
            raise Trouble("invalid", "root is no absolute directory")
        return path

    def ours(self, ask: Mapping[str, Any]) -> Root | None:
        found = self.roots.get(self.root(ask))
        if found is not None and found.owner != (ask["installation"], ask["target"]):
            raise Trouble("refused", f"{ask['root']} belongs to target {found.owner[1]} of {found.owner[0]}")
        return found

    def place(self, ask: Mapping[str, Any]) -> Place:
        return self.roots[self.root(ask)].places[named(ask["folder"], "folder")]

    def grip(self, helper: Helper, ask: Mapping[str, Any]) -> Place:
        if self.held.get((self.root(ask), ask["folder"])) is not helper:
            raise Trouble("invalid", "the placement is not held")
        return self.place(ask)

    def hold(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        root, folder = self.root(ask), named(ask["folder"], "folder")
        found = self.ours(ask)
        if self.held.get((root, folder), helper) is not helper:
            raise Trouble("busy", "another action holds the placement")
        if (root, folder) in self.running:
            raise Trouble("busy", "a command that was begun there has not ended")
        fence = found.places[folder].fence if found and folder in found.places else 0
        self.held[root, folder] = helper
        if ask["fence"] < fence:
            raise Trouble("stale_fence", f"changed under fence {fence}, this action holds {ask['fence']}")
        made = self.roots.setdefault(root, Root((ask["installation"], ask["target"])))
        made.places.setdefault(folder, Place()).fence = ask["fence"]
        return {}

    def close(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        self.held = {place: one for place, one in self.held.items() if one is not helper}
        return {}

    def beat(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def look(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        targets = []
        for target in ask["targets"]:
            try:
                found = self.ours(target)
                places = found.places.items() if found else ()
                targets.append({"places": [self.seen(target, folder, place) for folder, place in places]})
            except Trouble as trouble:
                targets.append({"unseen": str(trouble)})
        return {"targets": targets, "taken": sorted(self.listeners())}

    def seen(self, target: Mapping[str, Any], folder: str, place: Place) -> dict[str, Any]:
        pattern = re.escape(f"{target['services']}-{folder}-") + "[0-9a-f]{16}"
        sticker = place.files.get("sticker.json")
        return {
            "folder": folder,
            "sticker": None if sticker is None else {"text": sticker},
            "record": place.files.get("record.json"),
            "result": place.files.get("result.json"),
            "fence": place.fence,
            "releases": [{"name": id, "specification": one["specification"]} for id, one in place.releases.items()],
            "services": [self.told(name) for name in sorted(self.services) if re.fullmatch(pattern, name)],
        }

    def told(self, name: str) -> dict[str, Any]:
        one = self.services[name]
        return {
            "name": name,
            "state": one.state,
            "start_mode": one.start_mode,
            "command": one.command,
            "account": one.account,
            "exit_code": one.exit_code,
            "environment": environment_digest(one),
            "pid": one.pid,
            "started_ms": one.started_ms,
            "ports": [self.port(one)] if one.state == "Running" and self.port(one) else [],
        }

    def facts(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        found = self.roots.get(self.root(ask))
        owner = None if found is None else {"installation": found.owner[0], "target": found.owner[1]}
        return {
            "windows": "a contract server",
            "powershell": self.powershell,
            "user": r"HOST\deployer",
            "administrator": self.administrator,
            "time_ms": int(time.time() * 1000) + self.skew_ms,
            "disk": {"free": 50 << 30, "size": 100 << 30},
            "root": found is not None,
            "owner": owner,
            "lacking": [program for program in ask["programs"] if program not in self.programs],
        }

    # -- releases ----------------------------------------------------------------------------------------------------

    def intact(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        one = self.place(ask).releases.get(named(ask["release"], "release"))
        return {"intact": one is not None and one["digest"] == tree_digest(one["tree"])}

    def bring(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        place = self.grip(helper, ask)
        time.sleep(self.brings_slowly)
        place.incoming = b"" if ask["offset"] == 0 else place.incoming
        if len(place.incoming) != ask["offset"]:
            raise Trouble("refused", "the archive does not go on there")
        place.incoming += base64.b64decode(ask["content"])
        return {}

    def unfold(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        place, release = self.grip(helper, ask), named(ask["release"], "release")
        if hashlib.sha256(place.incoming).hexdigest() != ask["digest"]:
            raise Trouble("refused", "what arrived is not what was sent")
        with zipfile.ZipFile(io.BytesIO(place.incoming)) as archive:
            tree = {one.filename: archive.read(one) for one in archive.infolist()}
        said = {"tree": tree, "specification": ask["specification"], "digest": tree_digest(tree)}
        place.releases[release], place.incoming = said, b""
        return {}

    # -- services ----------------------------------------------------------------------------------------------------

    def install(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        self.grip(helper, ask)
        name = named(ask["service"], "service")
        made = self.services.setdefault(name, Service(ask["command"], ask["account"]))
        made.command, made.account, made.display = ask["command"], ask["account"], ask["display"]
        made.environment, made.restarts, made.start_mode = list(ask["environment"]), ask["restarts"], "Manual"
        assert ask["description"]
        return {"environment": environment_digest(made)}

    def run(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        place = self.grip(helper, ask)
        place.files["record.json"] = ask["record"]
        assert ask["grace"] >= 0
        assert ask["within"] > 0
        for name in ask["stop"]:
            if named(name, "service") in self.services:
                self.services[name].start_mode = "Manual"
                self.stop(name)
        if ask["start"] is None:
            return {"failed": None}
        name = named(ask["start"], "service")
        self.services[name].start_mode = "Auto" if ask["boots"] else "Manual"
        try:
            if self.services[name].state != "Running":
                self.start(name)
        except Trouble as trouble:
            return {"failed": str(trouble)}
        return {"failed": None}

    def drop(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        place = self.grip(helper, ask)
        for name in ask["services"]:
            self.services.pop(named(name, "service"), None)
        for release in ask["releases"]:
            place.releases.pop(named(release, "release"), None)
        return {}

    def write(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        place, file = self.grip(helper, ask), named(ask["file"], "file")
        if ask["content"] is None:
            place.files.pop(file, None)
        else:
            place.files[file] = ask["content"]
        return {}

    # -- programs and sockets ----------------------------------------------------------------------------------------

    def ask(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.place(ask)
            directory = f"{ask['root']}\\{ask['folder']}"
            if ask["release"] is not None:
                directory += f"\\releases\\{named(ask['release'], 'release')}\\tree"
        return self.ran(ask["command"], directory)

    def ran(self, command: Mapping[str, Any], directory: str) -> dict[str, Any]:
        run = self.programs.get(command["program"])
        if run is None:
            why = "cannot be run: The system cannot find the file specified"
            return {"exit_code": 127, "output": "", "cut": False, "why": why}
        code, output = run(self, directory, command)
        why = f"ended with exit code {code}" if code is not None else f"was not done within {command['within']:g} s"
        return {"exit_code": code, "output": output, "cut": False, "why": why}

    def order(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        place, at = self.grip(helper, ask), (self.root(ask), ask["folder"])
        assert helper.runner == COMMANDS["runner"]
        self.running.add(at)

        def go() -> None:
            ended = self.ran(ask["command"], "\\".join(at))
            said = ended["output"].strip().splitlines()[-1:]
            found = {"token": ask["token"], "exit_code": ended["exit_code"], "why": ended["why"], "said": said}
            with self.lock:
                place.files["result.json"] = json.dumps(found)
                self.running.discard(at)

        threading.Thread(target=go, daemon=True).start()
        return {"token": ask["token"]}

    def awaited(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + ask["within"]
        while True:
            text = self.place(ask).files.get("result.json")
            if text is not None and json.loads(text)["token"] == ask["token"]:
                return {"result": text}
            if time.monotonic() > until:
                return {"result": None}
            time.sleep(0.005)

    def exchange(self, helper: Helper, ask: Mapping[str, Any]) -> dict[str, Any]:
        with self.lock:
            found = self.answering(ask["port"]) if ask["address"] == "127.0.0.1" else None
            if found is None:
                return {"refused": True, "content": ""}
            version, character = found
        sent = base64.b64decode(ask["content"])
        if not sent:
            return {"refused": False, "content": ""}
        path = sent.split(b" ")[1]
        status = "500 Bad" if path == b"/health" and character == "bad" else "200 OK"
        body = f"shop {version}\n"
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        return {"refused": False, "content": base64.b64encode(answer.encode()).decode()}


VERBS: dict[str, Callable[[World, Helper, Mapping[str, Any]], dict[str, Any]]] = {
    name: getattr(World, name)
    for name in (
        *("ask", "awaited", "beat", "bring", "close", "drop", "exchange", "facts"),
        *("hold", "install", "intact", "look", "order", "run", "unfold", "write"),
    )
}


def named(text: str, what: str) -> str:
    if not re.fullmatch(NAMES[what], text):
        raise Trouble("invalid", f"{what} is not one that can be used")
    return text


def environment_digest(service: Service) -> str:
    return hashlib.sha256("\0".join(service.environment).encode()).hexdigest()


def tree_digest(tree: Mapping[str, bytes]) -> str:
    lines = [f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(tree.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Helper:
    """One command line in a shell of this Windows: PowerShell with our loader, or what no Windows knows."""

    def __init__(self, world: World, line: str) -> None:
        self.world, self.line, self.runner = world, line, ""
        self.ended = threading.Event()
        self._rest = b""
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._changed = threading.Condition()
        self._out, self._err, self._code = b"", b"", None if line == COMMANDS[""] else 1
        if self._code is not None:
            self._err = b"'" + line.encode()[:60] + b"' is not recognized as an internal or external command\r\n"
        threading.Thread(target=self._work, daemon=True).start()

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.put(line)

    def read(self, within: float) -> tuple[bytes, bytes, int | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._out or self._err or self._code is not None, within)
            found = self._out, self._err, self._code
            self._out, self._err = b"", b""
            return found

    def end(self) -> None:
        self.ended.set()
        self._lines.put(None)
        self._finish(1)

    def _finish(self, code: int, words: bytes = b"") -> None:
        with self.world.lock:
            self.world.close(self, {})
        with self._changed:
            self._code = code if self._code is None else self._code
            self._err += words
            self._changed.notify_all()

    def _say(self, answer: Mapping[str, Any]) -> None:
        with self._changed:
            self._out += json.dumps(answer).encode() + b"\n"
            self._changed.notify_all()

    def _work(self) -> None:
        if self._code is not None or not self._loaded():
            return
        self._say({"holdfast": 1, "machine": "AMD64"})
        while (line := self._lines.get()) is not None:
            ask = json.loads(line)
            self._say({"id": ask["id"], **self.world.answer(self, ask)})

    def _loaded(self) -> bool:
        """What the loader does: the script that came must be the one that was named, and here also the one we know."""
        head, script = self._lines.get(), self._lines.get()
        if head is None or script is None:
            return False
        said, content = json.loads(head), gzip.decompress(base64.b64decode(script))
        self.runner = said["runner"]
        digest = hashlib.sha256(content).hexdigest()
        if digest != said["digest"] or digest != program.digest():
            self._finish(3, b"the script that came is not the one that was named\r\n")
            return False
        return True
