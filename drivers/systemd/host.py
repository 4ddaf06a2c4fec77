"""The host's side of the systemd driver: releases, stickers, journal and lock as on any plain host, and systemd in
place of a supervisor. Nothing but Python 3.8, systemctl, journalctl and root is needed.

    root/<installation>/<component>[.slot]/releases/<release>/
        unit                        as it was rendered; the one that is installed is compared with it at every look
        environment                 what is declared, 0600, beside the unit that names it
        start.json                  the last start: under which key, as which instance, and what ran when it was ordered
    /etc/systemd/system/holdfast-<component>[.slot]-<tag>-<release>.service      a copy, so that no mount is awaited
    /run/holdfast/<tag>/<release>   secrets, 0600, on a file system in memory: gone with the next boot
    /run/holdfast/<tag>/<release>.files/    those that are handed over as files, from where systemd takes them

Each release has a unit of its own. It is ours when it bears our marks; another of that name is a conflict. To replace
what runs is one job of systemd (`Conflicts=`, `After=`), which is carried out whatever becomes of us. Only what serves
is enabled. An instance is one start that was ordered here: what systemd restarts by itself stays the same instance.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from drivers.process import host
from drivers.process.host import Place, Release, Trouble
from drivers.systemd import unit as units
from drivers.systemd.unit import Marks, Paths, Unfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from drivers.process.host import Json, Listeners

INSTALLED = "/etc/systemd/system"
WANTED = INSTALLED + "/multi-user.target.wants"
SECRETS = "/run/holdfast"
FILES = ".files"
BOOTED = "/run/systemd/system"  # is there when systemd is the first process
DROP_INS = (INSTALLED, "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control")
GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd")  # the one hierarchy, or systemd's own beside others
OLDEST = 240  # the first whose units can say Type=exec
CREDENTIALS = 247  # the first that hands over files
FRESH = 247  # the first that looks for a unit anew when it is started and not known
UTC_SHOWN = 248  # the first that tells time to the microsecond
PATIENCE = 30.0  # seconds for one answer of systemctl

_tokens = itertools.count()


# -- what systemd says -------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """One unit as systemd sees it."""

    name: str
    active: str
    sub: str
    pid: int
    invocation: str
    restarts: int
    exit_code: int | None
    started_ms: int | None
    fragment: str
    drop_ins: tuple[str, ...]
    stale: bool  # its file or drop-ins have changed since systemd read them
    group: str
    job: bool

    @property
    def is_active(self) -> bool:
        return self.active not in ("inactive", "failed")

    @property
    def pending(self) -> bool:
        return self.job or self.active == "deactivating"

    @property
    def shown(self) -> str:
        if not self.is_active:
            return "stopped"
        if self.active == "activating":
            return "restarting" if self.sub.startswith("auto-restart") else "starting"
        return "running"


PROPERTIES = (
    "Id,ActiveState,SubState,MainPID,InvocationID,NRestarts,ExecMainCode,ExecMainStatus,ExecMainStartTimestamp,"
    "FragmentPath,DropInPaths,NeedDaemonReload,ControlGroup,Job"
)


def services(text: str) -> dict[str, Unit]:
    """What `systemctl show` printed, by the names of the units."""
    found = (_service(block) for block in text.split("\n\n") if "=" in block)
    return {service.name: service for service in found}


def _service(block: str) -> Unit:
    said = dict(line.partition("=")[::2] for line in block.splitlines())
    return Unit(
        name=said["Id"],
        active=said["ActiveState"],
        sub=said["SubState"],
        pid=int(said["MainPID"]),
        invocation=said.get("InvocationID", ""),
        restarts=int(said["NRestarts"]),
        exit_code=_exit_code(said["ExecMainCode"], int(said["ExecMainStatus"])),
        started_ms=_milliseconds(said["ExecMainStartTimestamp"]),
        fragment=said.get("FragmentPath", ""),
        drop_ins=tuple(said.get("DropInPaths", "").split()),
        stale=said.get("NeedDaemonReload") == "yes",
        group=said.get("ControlGroup", ""),
        job=said.get("Job", "0") not in ("", "0"),
    )


def _exit_code(how: str, status: int) -> int | None:
    """As a shell words it when a signal ended it; None while nothing has ended."""
    return {"1": status, "2": 128 + status, "3": 128 + status}.get(how)


def _milliseconds(text: str) -> int | None:
    found = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)? UTC", text)
    if found is None:
        return None
    second = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)  # noqa: UP017 - Python 3.8
    return int(second.timestamp()) * 1000 + int(1000 * float(found[2] or 0))


def run(argv: Sequence[str], timeout: float = PATIENCE) -> str:
    """One program's output. Trouble says what it complained of."""
    surroundings = {"PATH": os.environ.get("PATH", host.PATH), "LC_ALL": "C", "TZ": "UTC"}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False, env=surroundings, cwd="/"
        )
    except FileNotFoundError:
        raise Trouble("refused", f"there is no {argv[0]} on the target") from None
    except subprocess.TimeoutExpired:
        raise Trouble("unknown", f"{argv[0]} {argv[1]} did not answer within {timeout:g} s") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise Trouble("refused", f"{argv[0]} {argv[1]}: {said[-1][:300]}")
    return done.stdout.decode(errors="replace")


def systemctl(*words: str) -> str:
    return run(("systemctl", "--no-ask-password", *words))


def members(group: str) -> list[int]:
    """The processes of a control group and those below it."""
    found: list[int] = []
    for top in GROUPS if group else ():
        for folder, _, _ in os.walk(top + group):
            with contextlib.suppress(OSError), open(folder + "/cgroup.procs") as file:
                found.extend(map(int, file.read().split()))
    return found


# -- names -------------------------------------------------------------------------------------------------------------


def tag_of(place: Place) -> str:
    return units.tag(os.path.realpath(place.path))


def unit_of(place: Place, release: str) -> str:
    return units.unit_name(os.path.basename(place.path), tag_of(place), release)


def stem(instance: str) -> str:
    """The unit that an instance is of."""
    return instance.partition("#")[0] + ".service"


def secrets_of(place: Place, release: str) -> str:
    return f"{SECRETS}/{tag_of(place)}/{release}"


def starts_at_boot(release: Release) -> bool:
    return bool(release.configuration_of["restart"] != "never")


# -- looking -----------------------------------------------------------------------------------------------------------


class Eyes(host.Eyes):
    """Looks at targets, and asks systemd once for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._now = threading.local()
        self._groups: dict[str, str] = {}
        self._slice: str | None = None
        self._version: int | None = None

    @property
    def version(self) -> int:
        if self._version is None:
            found = re.match(r"systemd (\d+)", systemctl("--version"))
            self._version = int(found[1]) if found else 0
        return self._version

    def services(self) -> dict[str, Unit]:
        """All of ours that systemd has in mind; what it has not does not run."""
        known: dict[str, Unit] | None = getattr(self._now, "services", None)
        return self._ask() if known is None else known

    def _ask(self) -> dict[str, Unit]:
        exact = ["--timestamp=us+utc"] if self.version >= UTC_SHOWN else []
        if not os.path.isdir(BOOTED):
            raise Trouble("refused", "the target was not booted by systemd")
        argv = ["show", "--all", *exact, f"--property={PROPERTIES}", "--", f"{units.PREFIX}*.service"]
        found = services(systemctl(*argv))
        self._groups.update((name, service.group) for name, service in found.items() if service.group)
        return found

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is looked at meanwhile by this thread is of one moment."""
        self._now.services = self._ask()
        try:
            yield
        finally:
            self._now.services = None

    def standing(self, place: Place, component: str, slot: str, *, instance: str | None = None) -> Json:
        found = super().standing(place, component, slot, instance=instance)
        seen = self.services()
        active = {name for name, _, _ in found["active"]}
        found["unfit"] = sorted(name for name in active if self.changes(place, name, seen[unit_of(place, name)]))
        return found

    def _runs(self, place: Place) -> tuple[Json | None, list[Json]]:
        """The last one that was started is the last one here."""
        seen, runs, pending = self.services(), [], False
        for name in reversed(host.release_names(place)):
            service = seen.get(unit_of(place, name))
            pending = pending or (service is not None and service.pending)
            run = self._run(place, name, service)
            if run is not None:
                runs.append(run)
        return {"lives": True, "pending": pending, "supervisor": "systemd", "version": str(self.version)}, runs

    def _run(self, place: Place, name: str, service: Unit | None) -> Json | None:
        active = service is not None and service.is_active
        start = self.start_of(place, name, service if active else None)
        if start is None and service is not None and active:
            start = self._by_hand(place, name, service)
        if start is None:
            return None
        return {
            "release": name,
            **{field: start[field] for field in ("artifact", "configuration", "instance", "key", "ports")},
            "instances": [start["instance"]],
            "shown": service.shown if service else "stopped",
            "active": active,
            "started_ms": service.started_ms if service else None,
            "restarts": service.restarts if service else 0,
            "exit_code": service.exit_code if service else None,
        }

    def start_of(self, place: Place, name: str, running: Unit | None) -> Json | None:
        """The last start of a release; the one before it while what it was to end still runs."""
        try:
            start: Json | None = self._read(place.release(name) + "/start.json", _start)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if start is not None and running is not None and start["before"] == running.invocation:
            past: Json | None = start["past"]
            return past
        return start

    def _by_hand(self, place: Place, name: str, service: Unit) -> Json:
        release = self._release(place, name)
        return {
            "artifact": release.artifact if release else None,
            "configuration": release.configuration if release else None,
            "instance": f"{service.name[: -len('.service')]}#{service.invocation[:8]}",
            "key": None,
            "ports": {},
        }

    def _workload(self, place: Place, run: Json, state: Json | None) -> Json:
        found = super()._workload(place, run, state)
        service = self.services().get(unit_of(place, run["release"]))
        changes = self.changes(place, run["release"], service) if run["active"] and service is not None else []
        if changes:
            found["configuration"] = None
            found["differences"] = found["differences"] + changes
        return found

    def changes(self, place: Place, name: str, service: Unit) -> list[str]:
        """What was changed by hand at the unit that runs."""
        found = []
        installed, rendered = self._text(f"{INSTALLED}/{service.name}"), self._text(place.release(name) + "/unit")
        if installed is None or installed != rendered:
            found.append(f"unit: found {'nothing' if installed is None else 'changed'}, wanted as rendered")
        elif service.stale:
            found.append("unit: found changed and not yet read by systemd, wanted as rendered")
        own = [path for path in service.drop_ins if os.path.basename(os.path.dirname(path)) == service.name + ".d"]
        found += [f"unit: found {path[:200]}, wanted no drop-in" for path in own]
        release = self._release(place, name)
        if place.serving() == name and release is not None and starts_at_boot(release):
            found += [] if os.path.lexists(f"{WANTED}/{service.name}") else ["unit: found disabled, wanted enabled"]
        return found

    def _text(self, path: str) -> str | None:
        try:
            found: str | None = self._read(path, bytes.decode)
            return found
        except (OSError, ValueError):
            return None

    # .. sockets and signs of life ..

    def listening(self, table: Listeners, instance: str, address: str, port: int) -> tuple[str, tuple[int, ...]]:
        """Ours are the sockets held within the unit's control group, whoever of it holds them."""
        inodes = host.answering(table, address, port)
        if not inodes:
            return "nobody", ()
        missing = {f"socket:[{inode}]" for inode in inodes}
        try:
            for pid in self._members(stem(instance)):
                missing -= host.sockets_of(pid)
        except PermissionError:
            return "unknown", tuple(sorted(inodes))
        return "foreign" if missing else "ours", tuple(sorted(inodes))

    def lives(self, instance: str) -> bool:
        return bool(self._members(stem(instance)))

    def _members(self, name: str) -> list[int]:
        if name not in self._groups:
            self._ask()
        return members(self._groups.get(name, ""))

    def pulse(self, ask: Mapping[str, Any]) -> list[Any]:
        """Stickers, what serves, and who runs in the control groups: nothing that systemd has to be asked for."""
        folder, beats = host.Claim.of(ask).folder, []
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                place = Place(f"{folder}/{name}")
                files = [host.stamped(path) for path in (place.sticker, place.current)]
                groups = [self._beat(unit_of(place, release)) for release in host.release_names(place)]
                beats.append([name, *files, groups])
        return beats

    def _beat(self, name: str) -> list[int]:
        if self._slice is None:
            self._slice = systemctl("show", "--property=ControlGroup", "--value", "--", "system.slice").strip()
        return members(self._groups.get(name) or f"{self._slice}/{name}")


def _start(content: bytes) -> Json:
    body = host.parse(content)
    for start in (body, body["past"]):
        {name: start[name] for name in ("artifact", "configuration", "instance", "key", "ports")} if start else None
    str(body["before"])
    return body


# -- requests of the driver --------------------------------------------------------------------------------------------


class Session(host.Session):
    """As on any plain host, with systemd for what concerns running."""

    eyes: Eyes

    def __init__(self, eyes: Eyes | None = None) -> None:
        super().__init__(eyes or Eyes())
        self.waits: dict[int, tuple[Callable[[dict[str, Unit]], bool], Json]] = {}

    def look(self, request: Mapping[str, Any]) -> Json:
        with self.eyes.at_once():
            return super().look(request)

    def standing(self, request: Mapping[str, Any]) -> Json:
        with self.eyes.at_once():
            return super().standing(request)

    def examine(self, request: Mapping[str, Any]) -> Json:
        lacks, version = None, None
        try:
            self._need_systemd()
            version = self.eyes.version
        except Trouble as trouble:
            lacks = str(trouble)
        return {**super().examine(request), "keeper": {"name": "systemd", "version": version, "lacks": lacks}}

    def hold(self, request: Mapping[str, Any]) -> Json:
        self._need_systemd()
        found = super().hold(request)
        if os.path.exists(Place(found["place"]).state):
            raise Trouble("refused", f"{found['place']} is under a supervisor of the process driver; remove it first")
        return found

    def _need_systemd(self) -> None:
        """What is missing is said before anything is changed."""
        if os.geteuid() != 0:
            raise Trouble("refused", "units are written and started by root; this is not root")
        if not os.path.isdir(BOOTED):
            raise Trouble("refused", "the target was not booted by systemd")
        if self.eyes.version < OLDEST:
            raise Trouble("refused", f"systemd {OLDEST} or newer is needed, this is {self.eyes.version}")

    # .. releases ..

    def fits(self, request: Mapping[str, Any]) -> Json:
        """Whether this release could be started. What serves it already is enabled again where it is not."""
        place = self._held(request)
        release = host.load_release(place, str(request["release"]))
        host.credentials(release)
        if release.configuration_of.get("secrets") and self.eyes.version < CREDENTIALS:
            said = f"secrets: files need systemd {CREDENTIALS} on the target, which has {self.eyes.version}"
            raise Trouble("invalid", said)
        self._rendered(place, release, [])
        self._refuse_foreign(place, release.name)
        service = self.eyes.services().get(unit_of(place, release.name))
        if service is not None and service.is_active and place.serving() == release.name:
            self._enable(place, release)
        return {}

    def _rendered(self, place: Place, release: Release, replaces: Sequence[str]) -> str:
        body, path = release.specification, place.release(release.name)
        tree, command = path + "/tree", [str(word) for word in body["command"]]
        secrets = secrets_of(place, release.name) if release.secrets else None
        marks = Marks(
            installation=body["installation"],
            target=body["target"],
            component=body["component"],
            slot=body["slot"],
            artifact=body["artifact"],
            configuration=release.configuration,
            release=path,
        )
        program = host.program(tree, command[0], _search_path(release))
        try:
            files = None if secrets is None else secrets + FILES
            paths = Paths(program, tree, path + "/environment", secrets, files)
            return units.unit(marks, paths, command, release.configuration_of, replaces)
        except Unfit as error:
            raise Trouble("invalid", str(error)) from None

    def _refuse_foreign(self, place: Place, name: str) -> None:
        """A unit of that name that does not bear our marks is somebody else's, and so is one that is masked."""
        unit, path = unit_of(place, name), f"{INSTALLED}/{unit_of(place, name)}"
        if os.path.lexists(path):
            if not self._is_ours(place, unit):
                raise Trouble("conflict", f"{path} is not of this placement")
            return
        fragment = systemctl("show", "--property=FragmentPath", "--value", "--", unit).strip()
        if fragment not in ("", path):
            raise Trouble("conflict", f"{fragment} is not of this placement")

    def _is_ours(self, place: Place, unit: str) -> bool:
        text = self.eyes._text(f"{INSTALLED}/{unit}")
        release = units.marks(text or "").get("release", "")
        return os.path.dirname(release) == place.releases and unit_of(place, os.path.basename(release)) == unit

    def switch(self, request: Mapping[str, Any]) -> Json:
        """What serves is what starts with the next boot, if it was started at all."""
        place = self._held(request)
        release = host.load_release(place, str(request["release"]))
        service = self.eyes.services().get(unit_of(place, release.name))
        place.point(release.name)
        self._enable(place, release if service is not None and service.is_active else None)
        return {}

    def unpoint(self, request: Mapping[str, Any]) -> Json:
        self._enable(self._held(request), None)
        return super().unpoint(request)

    def _enable(self, place: Place, release: Release | None) -> None:
        """This release and no other of the placement."""
        wanted = unit_of(place, release.name) if release is not None and starts_at_boot(release) else None
        for name in self._units(place):
            if name != wanted:
                _unlink(f"{WANTED}/{name}")
        if wanted is not None and not os.path.lexists(f"{WANTED}/{wanted}"):
            os.makedirs(WANTED, exist_ok=True)
            host.point(f"{WANTED}/{wanted}", f"{INSTALLED}/{wanted}")

    def _units(self, place: Place) -> list[str]:
        return [unit_of(place, name) for name in host.release_names(place)]

    def _discard(self, place: Place, name: str) -> None:
        """Its unit first: a release without one is only kept, a unit without its release would be nobody's."""
        self._uninstall(place, name)
        super()._discard(place, name)

    def _uninstall(self, place: Place, name: str) -> None:
        unit = unit_of(place, name)
        _unlink(secrets_of(place, name))
        host.remove_tree(secrets_of(place, name) + FILES)
        if self._is_ours(place, unit):
            _unlink(f"{WANTED}/{unit}")
            _unlink(f"{INSTALLED}/{unit}")
            _drop(unit)
        service = self.eyes.services().get(unit)
        if service is not None and service.active == "failed":
            systemctl("reset-failed", "--", unit)

    # .. starting and stopping ..

    def ensure(self, request: Mapping[str, Any]) -> Json:
        """Systemd is the supervisor; it runs, or nothing else would."""
        self._held(request)
        return {"supervisor": "systemd", "same": True}

    def dismiss(self, request: Mapping[str, Any]) -> Json:
        """Tell systemd to stop all that runs here; with `force`, kill it first."""
        active = self._active(self._held(request))
        if active and request.get("force"):
            systemctl("kill", "--signal=KILL", "--", *active)
        if active:
            systemctl("stop", "--no-block", "--", *active)
        return {}

    def gone(self, request: Mapping[str, Any]) -> Json:
        place, until = host.Claim.of(request).place(str(request["component"]), str(request["slot"])), time.monotonic()
        until += float(request["timeout"])
        while self._active(place) and time.monotonic() < until:
            time.sleep(0.05)
        return {"gone": not self._active(place)}

    def _active(self, place: Place) -> list[str]:
        seen = self.eyes.services()
        return [name for name in self._units(place) if name in seen and (seen[name].is_active or seen[name].job)]

    def order(self, request: Mapping[str, Any]) -> Json:
        """Give systemd a job and do not wait for its end: whatever becomes of us, it carries it out."""
        place, order, token = self._held(request), request["order"], next(_tokens)
        self.waits[token] = self._started(place, order) if order["do"] == "start" else self._stopped(place, order)
        return {"token": token}

    def _started(self, place: Place, order: Json) -> tuple[Callable[[dict[str, Unit]], bool], Json]:
        """Everything that can be refused is refused before anything is written, and written before anything stops."""
        name = order["release"] or place.serving()
        if name is None:
            raise Trouble("refused", f"{place.current} names no release")
        release, unit = host.load_release(place, name), unit_of(place, name)
        others = [other for other in self._active(place) if order["replace"] and other != unit]
        text, ports = self._rendered(place, release, self._replaces(place, release, others)), _ports(release)
        self._refuse_foreign(place, name)
        variables, secrets = _variables(release, ports), self._secrets(place, release, order.get("secrets", {}))
        service = self.eyes.services().get(unit)
        running = service if service is not None and service.is_active else None
        self._install(place, name, text, service)
        host.write_file(place.release(name) + "/environment", variables, 0o600)
        if secrets is not None:
            _keep_files(secrets_of(place, name) + FILES, release, order["secrets"])
            _keep_secrets(secrets_of(place, name), secrets)
        instance = self._note(place, release, order.get("key"), ports, running)
        if order["replace"]:
            place.point(name)
            self._enable(place, release)
        systemctl("restart" if running else "start", "--no-block", "--", unit)
        if others and _is_floating(release):
            systemctl("stop", "--no-block", "--", *others)
        return lambda seen: unit not in seen or not seen[unit].pending, {"instance": instance}

    def _replaces(self, place: Place, release: Release, others: Sequence[str]) -> Sequence[str]:
        """Units that must have ended before this one starts: none for what shares no port with them, and might run
        beside them one day. With nothing to replace, the unit stays as it was, and systemd need not read it again."""
        if _is_floating(release):
            return []
        return others or units.replaced(self.eyes._text(place.release(release.name) + "/unit") or "")

    def _stopped(self, place: Place, order: Json) -> tuple[Callable[[dict[str, Unit]], bool], Json]:
        """Stop the units of these releases, or all; what is stopped does not start with the next boot."""
        wanted = order.get("releases")
        names = [unit_of(place, name) for name in host.release_names(place) if wanted is None or name in wanted]
        for name in names:
            _unlink(f"{WANTED}/{name}")
        active = [name for name in self._active(place) if name in names]
        if active:
            systemctl("stop", "--no-block", "--", *active)
        return lambda seen: not any(name in seen and seen[name].is_active for name in active), {}

    def awaited(self, request: Mapping[str, Any]) -> Json:
        done, answer = self.waits.pop(int(request["token"]))
        until, pause = time.monotonic() + float(request["timeout"]), 0.01
        while not done(self.eyes.services()):
            if time.monotonic() >= until:
                raise Trouble("unknown", "systemd has not finished the job; what it did is to be looked at")
            time.sleep(pause)
            pause = min(0.2, 2 * pause)
        return answer

    def _install(self, place: Place, name: str, text: str, known: Unit | None) -> None:
        """The unit as it is rendered, in its release and where systemd finds it, without what was added by hand. Only
        what systemd has read before, it is told to read again, since it then reads everything."""
        unit = unit_of(place, name)
        rendered, installed = place.release(name) + "/unit", f"{INSTALLED}/{unit}"
        changed = self.eyes._text(installed) != text
        if self.eyes._text(rendered) != text:
            host.write_file(rendered, text.encode(), 0o644)
        if changed:
            host.write_file(installed, text.encode(), 0o644)
        read = known is not None and bool(known.fragment)
        stale = known is not None and known.stale
        if _drop(unit) or stale or (changed and (read or self.eyes.version < FRESH)):
            systemctl("daemon-reload")

    def _secrets(self, place: Place, release: Release, given: Mapping[str, str]) -> bytes | None:
        """Their file's content; None where none is needed, or where those that it ran with are still there."""
        missing = [name for name in release.secrets if name not in given]
        if not release.secrets or (missing and os.path.exists(secrets_of(place, release.name))):
            return None
        if missing:
            raise Trouble("secrets", "the release needs secrets that were not handed over", missing)
        declared = release.configuration_of.get("environment", [])
        return _file({name: given[host.secret_name(value)] for name, value in declared if isinstance(value, dict)})

    def _note(
        self, place: Place, release: Release, key: str | None, ports: Mapping[str, int], running: Unit | None
    ) -> str:
        """What is about to be started. It counts from the moment at which another invocation runs than now."""
        now = self.eyes.start_of(place, release.name, running)
        past = None if now is None else {name: now[name] for name in now if name not in ("past", "before")}
        instance = f"{unit_of(place, release.name)[: -len('.service')]}#{os.urandom(4).hex()}"
        body = {
            "format": host.FORMAT,
            "artifact": release.artifact,
            "configuration": release.configuration,
            "instance": instance,
            "key": key,
            "ports": ports,
            "before": running.invocation if running else None,
            "past": past,
        }
        host.write_file(place.release(release.name) + "/start.json", host.serialise(body), 0o644)
        os.utime(place.release(release.name))  # the order in which releases are kept
        return instance

    # .. the rest ..

    def ask(self, request: Mapping[str, Any]) -> Json:
        """Run a health command as the workload would, and tell how it ended: its user, its directory, the environment
        of its main process; not within its limits."""
        place = host.Claim.of(request).place(str(request["component"]), str(request["slot"]))
        order = request["order"]
        if order["do"] != "check":
            raise Trouble("invalid", "an order is given by who holds the placement")
        instance, seen = str(order["instance"]), self.eyes.services()
        service = seen.get(stem(instance))
        names = [name for name in host.release_names(place) if unit_of(place, name) == stem(instance)]
        if service is None or not service.pid or not names:
            raise Trouble("unreachable", "the instance does not run")
        release = host.load_release(place, names[0])
        return {"exit_code": _check(place, release, service.pid, [str(word) for word in order["argv"]], order)}

    def clear(self, request: Mapping[str, Any]) -> Json:
        place = self._held(request)
        self._enable(place, None)
        _unlink(place.current)
        for name in host.release_names(place):
            self._discard(place, name)
        for folder in (place.releases, place.logs):
            host.remove_tree(folder)
        with contextlib.suppress(OSError):
            os.rmdir(f"{SECRETS}/{tag_of(place)}")
        host.clean(place)
        return {}

    def log(self, request: Mapping[str, Any]) -> Json:
        """What the workload itself printed, of all kept releases: the last lines, or what came after `position`."""
        place = host.Claim.of(request).place(str(request["component"]), str(request["slot"]))
        position, names = request.get("position"), self._units(place)
        if position is None:
            lines, cursor = _journal(names, [f"--lines={int(request['tail'])}"])
            return {"lines": lines, "position": cursor or ["since", f"@{time.time():.6f}"]}
        kind, value = (str(part) for part in position)
        option = f"--after-cursor={value}" if kind == "cursor" else f"--since={value}"
        lines, cursor = _journal(names, [option])
        return {"text": "".join(line + "\n" for line in lines), "position": cursor or position}


def _journal(names: Sequence[str], options: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Lines and where they end, None where there are none."""
    if not names:
        return [], None
    fields = [f"_SYSTEMD_UNIT={name}" for name in names]
    said = run(["journalctl", "--quiet", "--no-pager", "--output=cat", "--all", "--show-cursor", *options, *fields])
    lines = said.splitlines()
    if not lines or not lines[-1].startswith("-- cursor: "):
        return lines, None
    return lines[:-1], ["cursor", lines[-1][len("-- cursor: ") :]]


def _check(place: Place, release: Release, pid: int, argv: Sequence[str], order: Json) -> int | None:
    tree, become = place.release(release.name) + "/tree", host.credentials(release)
    with open(f"/proc/{pid}/environ", "rb") as file:
        pairs = [item.partition(b"=") for item in file.read().split(b"\0") if b"=" in item]
    words = [host.program(tree, argv[0], _search_path(release)), *argv[1:]]
    if become is not None:
        user, group, name = become
        groups = "--clear-groups" if name is None else "--init-groups"
        words = ["setpriv", f"--reuid={user}", f"--regid={group}", groups, "--", *words]
    null = subprocess.DEVNULL
    child = subprocess.Popen(
        words,
        stdin=null,
        stdout=null,
        stderr=null,
        cwd=tree,
        env={os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs},
        start_new_session=True,
    )
    try:
        code: int | None = child.wait(float(order["timeout"]))
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return code if code is None or code >= 0 else 128 - code


def _search_path(release: Release) -> str:
    declared = dict(release.configuration_of.get("environment", [])).get("PATH")
    return declared if isinstance(declared, str) else host.PATH


def _ports(release: Release) -> dict[str, int]:
    """Declared ports and where they are: as declared, or any free one, which the workload is told."""
    declared = release.configuration_of.get("ports", [])
    return {str(port["container"]): port["host"] or host.free_port(port["address"]) for port in declared}


def _is_floating(release: Release) -> bool:
    declared = release.configuration_of.get("ports", [])
    return bool(declared) and all(port["host"] is None for port in declared)


def _variables(release: Release, ports: Mapping[str, int]) -> bytes:
    """The environment file: declared variables, PATH, and what tells the workload who it is."""
    found = {"PATH": host.PATH}
    for name in ("installation", "target", "component", "slot", "artifact"):
        found["HOLDFAST_" + name.upper()] = release.specification[name]
    found["HOLDFAST_CONFIGURATION"] = release.configuration
    found.update(("HOLDFAST_PORT_" + name, str(port)) for name, port in ports.items())
    declared = release.configuration_of.get("environment", [])
    found.update((name, value) for name, value in declared if isinstance(value, str))
    return _file(found)


def _file(values: Mapping[str, str]) -> bytes:
    try:
        return units.environment(values).encode()
    except Unfit as error:
        raise Trouble("invalid", str(error)) from None


def _keep_secrets(path: str, content: bytes) -> None:
    host.make_folder(SECRETS, 0o700)
    host.make_folder(os.path.dirname(path), 0o700)
    host.write_file(path, content, 0o600, durable=False)


def _keep_files(folder: str, release: Release, values: Mapping[str, str]) -> None:
    """Before the file whose being there says that all of them are."""
    files = release.configuration_of.get("secrets", [])
    if files:
        for path in (SECRETS, os.path.dirname(folder), folder):
            host.make_folder(path, 0o700)
    for file in files:
        content = values[host.secret_name(file["secret"])].encode()
        host.write_file(f"{folder}/{file['name']}", content, 0o600, durable=False)


def _drop(unit: str) -> bool:
    """Take away what was added to a unit by hand; whether there was anything."""
    found = [f"{top}/{unit}.d" for top in DROP_INS if os.path.isdir(f"{top}/{unit}.d")]
    for folder in found:
        host.remove_tree(folder)
    return bool(found)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["session"]:
        return host.session(Session())
    if list(arguments) == ["serve"]:
        eyes = Eyes()
        host.Desk(lambda _: Session(eyes), eyes).serve()
    sys.stderr.write("usage: session | serve\n")
    return 2
