"""The host's side of the process driver, in one file that needs nothing but Python 3.8 and Linux.

It looks, unpacks no image but seals and verifies what was unpacked, starts, switches, stops, writes stickers, collects
and shows logs, all on plain JSON requests: `Session.answer`, or one request a line on the standard input of `host.py
session`, or those of several holders at once on that of `host.py serve`, as another machine asks. Run as `host.py
supervise DIRECTORY` it is the supervisor of one placement, which outlives whoever started it. `host.py ctl DIRECTORY
status|start|stop|restart` is the same for a person's hands.

    root/owner.json                                   whose root this is; another's is refused
    root/.holdfast/holdfast_<digest>.py               this file, where it was brought by another machine
    root/<installation>/<component>[.slot]/
        releases/<artifact>-<configuration>/          tree/ as unpacked, files.json with its hashes, specification.json
        current -> releases/...                       what serves, or would
        sticker.json  journal.json  lock              the sticker; the highest fence seen; who acts now
        supervisor/{lock,pid,state.json,socket}       one supervisor, its word on what runs, its ear (0600)
        logs/output.log[.n]                           what the workload printed, bounded

What is enforced: memory by RLIMIT_DATA, each process of the workload for itself; processors by affinity, in whole
cores; user and group, as root only; no core dumps. Nothing else is, and what is not enforced is refused.

A supervisor that is killed takes its workload along (PR_SET_PDEATHSIG); what the workload had forked is found by a mark
in its environment and ended by the next supervisor before it starts anything. Secrets live in the memory of the
supervisor and in the environment of the workload, or in files on a file system in memory, nowhere else: when both are
gone, as after a reboot, the placement reads as stopped until the next action brings them again. Nothing here starts at
boot.

    /run/holdfast-0/<placement>-<run>/      root's; of others /run/user/<uid> or /dev/shm, where that is in memory
        db-password                         0400, the workload's own; made for each start, gone with the last process
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import grp
import hashlib
import itertools
import json
import os
import pwd
import re
import resource
import selectors
import signal
import socket
import stat
import struct
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn

    Json = dict[str, Any]
    Stamp = tuple[int, int, int, int]  # what tells that a file is the one seen before
    Listeners = dict[int, list[tuple[bytes, int]]]  # port -> address and inode of its sockets

FORMAT = "holdfast.process/v1"
MARK = "HOLDFAST_RUN"  # in the environment of all that a supervisor starts: "<placement directory>#<number>"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_BYTES, LOG_FILES = 4 << 20, 4  # of one file; files in all
LINE_BYTES = 16 << 10  # longer lines are written in pieces
REQUEST_BYTES = 8 << 20
STICKER_BYTES = 64 << 10
LINGER = 60.0  # seconds that a supervisor with nothing to supervise waits for the next order
SWEEP_GRACE = 2.0  # for what a workload that ended by itself leaves behind
FIRST_DELAY, LONGEST_DELAY, GOOD_RUN = 0.1, 30.0, 10.0  # back-off between restarts; a run this long resets it
RACY = 50_000_000  # nanoseconds within which two writes may bear one timestamp
SHARED = "/dev/shm"  # noqa: S108 - what is not ours alone there is not used
IN_MEMORY = ("tmpfs", "ramfs")
FILES = "CREDENTIALS_DIRECTORY"  # where a workload finds its secrets, by the name that systemd gives it, too
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
INSTALLATION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
KEPT = re.compile(r"holdfast_[0-9a-f]{16}\.py")
RELEASE = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}(?:\.[0-9]{1,6})?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PATIENCE = 45.0  # seconds without a word after which who holds something from another machine has gone
ERRAND_ENDS = 10.0  # seconds beyond its own deadline that an errand is waited for
LONGEST_CHANGE = 600.0  # seconds after which a change that does not end keeps nobody out any more
SOURCE = b""  # this file's content, where it was brought by another machine and stands in memory alone
PDEATHSIG, SUBREAPER = 1, 36  # options of prctl(2)
SOCK_DIAG, DIAG_BY_FAMILY, DUMP, TCP_LISTEN, NETLINK_ERROR, NETLINK_DONE = 4, 20, 0x301, 10, 2, 3  # sock_diag(7)

_numbers = itertools.count()


class Trouble(Exception):
    """What the host will not or cannot do. `code` is for programs: refused, invalid, busy, conflict, stale_fence,
    unreachable, unknown, and secrets, which names in `missing` those that were not handed over."""

    def __init__(self, code: str, text: str, missing: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.code, self.missing = code, list(missing)


# -- processes, as the kernel tells them -------------------------------------------------------------------------------


class Process(NamedTuple):
    pid: int
    state: str
    parent: int
    group: int
    session: int
    ticks: int  # since boot, when it started

    @property
    def instance(self) -> str:
        """A process id alone is soon another's."""
        return f"{self.pid}:{self.ticks}"

    @property
    def lives(self) -> bool:
        return self.state not in "ZXx"


def process(pid: int | str) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(int(pid), fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = process(name)
            if found is not None:
                yield found


def living(instance: str | None) -> Process | None:
    """The process that this instance names, if it still runs."""
    pid, _, ticks = (instance or "").partition(":")
    found = process(pid) if pid.isdigit() and pid != "0" else None
    return found if found is not None and found.lives and str(found.ticks) == ticks else None


def mark_of(pid: int) -> str | None:
    """The mark that a supervisor put into the environment of this process or of an ancestor."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = [item for item in file.read().split(b"\0") if item.startswith(MARK.encode() + b"=")]
    except OSError:
        return None
    return os.fsdecode(found[0][len(MARK) + 1 :]) if found else None


def orphans(place: str) -> list[Process]:
    """What still runs of this placement. Only for who holds the supervisor's lock: nobody else supervises it then."""
    me = os.getpid()
    return [
        found
        for found in processes()
        if found.lives and found.pid != me and (mark_of(found.pid) or "").startswith(place + "#")
    ]


def end_orphans(place: str) -> int:
    """Kill them, and whatever they fork meanwhile; answers how many there were."""
    ended = set()
    for _ in range(200):
        found = orphans(place)
        if not found:
            break
        for orphan in found:
            ended.add(orphan.instance)
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGKILL)
        time.sleep(0.01)
    return len(ended)


def boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def prctl(option: int, value: int) -> None:
    """Best effort: a libc without it leaves the mark in the environment as the only leash."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# -- who listens on a port ---------------------------------------------------------------------------------------------


def listeners() -> Listeners:
    """All TCP sockets that listen. Asked of the kernel by netlink, a fifty microseconds' question; where it has no
    answer, read from its tables, which takes milliseconds."""
    try:
        return _asked_listeners()
    except OSError:
        return _read_listeners()


def _asked_listeners() -> Listeners:
    found: Listeners = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, SOCK_DIAG) as line:
        line.settimeout(1)
        for family, width in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            body = struct.pack("=BBxxI48x", family, socket.IPPROTO_TCP, 1 << TCP_LISTEN)
            line.send(struct.pack("=IHHII", 16 + len(body), DIAG_BY_FAMILY, DUMP, 0, 0) + body)
            for answer in _diagnoses(line):
                port, address = struct.unpack_from("!H", answer, 4)[0], answer[8 : 8 + width]
                found.setdefault(port, []).append((address, struct.unpack_from("=I", answer, 68)[0]))
    return found


def _diagnoses(line: socket.socket) -> Iterator[bytes]:
    """The messages of one netlink dump, until the one that says it is done."""
    while True:
        content, at = line.recv(1 << 18), 0
        while at + 16 <= len(content):
            length, kind = struct.unpack_from("=IH", content, at)
            if kind == NETLINK_DONE:
                return
            if kind == NETLINK_ERROR or length < 16:
                raise OSError("netlink does not tell sockets")
            yield content[at + 16 : at + length]
            at += (length + 3) & ~3


def _read_listeners() -> Listeners:
    """The kernel lists those that listen before all others."""
    found: Listeners = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as file:
            next(file)
            for line in file:
                fields = line.split()
                if fields[3] != "0A":
                    break
                address, _, port = fields[1].partition(":")
                found.setdefault(int(port, 16), []).append((_packed(address), int(fields[9])))
    return found


def _packed(text: str) -> bytes:
    """The kernel prints an address as native words."""
    return b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))


def answering(table: Listeners, address: str, port: int) -> frozenset[int]:
    """The sockets that a connection to this address and port can reach: those bound to it most exactly. More than one
    when they share the port, and then any of them may answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    exact = socket.inet_pton(family, address)
    mapped = b"\0" * 10 + b"\xff" * 2 + exact if len(exact) == 4 else exact
    for wanted in ({exact, mapped}, {b"\0" * len(exact)}, {b"\0" * 16}):
        found = frozenset(inode for bound, inode in table.get(port, ()) if bound in wanted)
        if found:
            return found
    return frozenset()


def owned(leader: Process, inodes: frozenset[int]) -> bool:
    """Whether every one of these sockets is held by the leader's group or session. Raises PermissionError."""
    missing = {f"socket:[{inode}]" for inode in inodes}
    missing -= sockets_of(leader.pid)
    if missing:
        for member in processes():
            if leader.pid in (member.group, member.session) and member.pid != leader.pid:
                missing -= sockets_of(member.pid)
            if not missing:
                break
    return not missing


def sockets_of(pid: int) -> set[str]:
    folder, found = f"/proc/{pid}/fd", set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.add(os.readlink(f"{folder}/{name}"))
    return found


def listening(table: Listeners, instance: str, address: str, port: int) -> tuple[str, tuple[int, ...]]:
    """Who would answer there: ours, foreign, nobody or unknown; and by which sockets."""
    leader = living(instance)
    inodes = answering(table, address, port)
    if not inodes:
        return "nobody", ()
    if leader is None:
        return "foreign", tuple(sorted(inodes))
    try:
        return ("ours" if owned(leader, inodes) else "foreign"), tuple(sorted(inodes))
    except PermissionError:
        return "unknown", tuple(sorted(inodes))


# -- files: never half-written, never followed through a link ----------------------------------------------------------


def read_file(path: str, limit: int) -> tuple[bytes, Stamp]:
    """The content of a regular file and what tells it from others. ValueError when it is not one, or too large."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        if found.st_size > limit:
            raise ValueError(f"{found.st_size} bytes, at most {limit} are read")
        return file.read(limit), stamp_of(found)


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write_file(path: str, content: bytes, mode: int, *, durable: bool = True) -> None:
    """The whole content or none of it, whenever this is killed; with `durable` after a power cut too."""
    temporary = _beside(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(handle, mode)
            if durable:
                os.fsync(handle)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def point(path: str, destination: str) -> None:
    """A symbolic link, switched in one step."""
    temporary = _beside(path)
    os.symlink(destination, temporary)
    os.rename(temporary, path)
    sync_folder(os.path.dirname(path))


def _beside(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.{next(_numbers)}")


def sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_filesystem(path: str) -> None:
    """One call for a whole unpacked tree."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None).syncfs(handle) != 0:
            os.sync()
    except AttributeError:
        os.sync()
    finally:
        os.close(handle)


def make_folder(path: str, mode: int) -> None:
    """A directory with exactly this mode, whatever the umask; one that is a link is refused."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
        os.chmod(path, mode)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise Trouble("refused", f"{path} is not a directory")


def remove_tree(path: str) -> None:
    """Take a directory away; renamed first, so that half of it is never taken for the whole."""
    gone = os.path.join(os.path.dirname(path), f".gone-{os.getpid()}-{next(_numbers)}")
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    import shutil  # half a megabyte that no supervisor needs

    for folder, _, _ in os.walk(gone):
        os.chmod(folder, 0o700)
    shutil.rmtree(gone)


def parse(content: bytes) -> Json:
    """A JSON object in our format."""
    body = json.loads(content.decode())
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"not in the format {FORMAT}")
    return body


def serialise(body: Json) -> bytes:
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"


# -- the places on disk ------------------------------------------------------------------------------------------------


class Place:
    """One placement's directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.releases = path + "/releases"
        self.current = path + "/current"
        self.sticker = path + "/sticker.json"
        self.journal = path + "/journal.json"
        self.lock = path + "/lock"
        self.supervisor = path + "/supervisor"
        self.state = path + "/supervisor/state.json"
        self.logs = path + "/logs"

    def make(self) -> None:
        make_folder(self.path, 0o755)
        make_folder(self.releases, 0o755)
        make_folder(self.supervisor, 0o700)
        make_folder(self.logs, 0o700)

    def release(self, name: str) -> str:
        if not RELEASE.fullmatch(name):
            raise Trouble("invalid", f"{name[:80]!r} is not the name of a release on this host")
        return f"{self.releases}/{name}"

    def serving(self) -> str | None:
        """The release that `current` names; None when there is none, or it leads elsewhere."""
        try:
            folder, _, name = os.readlink(self.current).rpartition("/")
        except OSError:
            return None
        inside = folder in ("releases", self.releases) and RELEASE.fullmatch(name)
        return name if inside and os.path.isdir(self.release(name)) else None

    def point(self, name: str) -> None:
        if self.serving() != name:
            point(self.current, "releases/" + name)


class Claim(NamedTuple):
    """Whose root it is."""

    root: str
    installation: str
    target: str

    @property
    def folder(self) -> str:
        return f"{self.root}/{self.installation}"

    @property
    def owner(self) -> str:
        return self.root + "/owner.json"

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Claim:
        root, installation = str(request["root"]), str(request["installation"])
        if not os.path.isabs(root) or "\0" in root:
            raise Trouble("invalid", f"root {root[:80]!r} is not an absolute path")
        if not INSTALLATION.fullmatch(installation):
            raise Trouble("invalid", f"{installation[:80]!r} is not an installation id")
        return cls(os.path.normpath(root), installation, str(request["target"]))

    def place(self, component: str, slot: str) -> Place:
        for name in (component, slot):
            if not NAME.fullmatch(name):
                raise Trouble("invalid", f"{name[:80]!r} is not a name")
        return Place("{}/{}".format(self.folder, component if slot == "live" else f"{component}.{slot}"))

    def read(self) -> tuple[str, str] | None:
        """Installation and target written on the door; None when nothing is."""
        try:
            body = parse(read_file(self.owner, 4096)[0])
            return str(body["installation"]), str(body["target"])
        except FileNotFoundError:
            return None

    def check(self, found: tuple[str, str] | None) -> None:
        if found is not None and found != (self.installation, self.target):
            raise Trouble("refused", f"{self.root} belongs to target {found[1]} of installation {found[0]}")

    def take(self) -> Claim:
        """Make the root ours unless it is another's, or holds what nobody signed for."""
        if not os.path.isdir(self.root):
            os.makedirs(self.root)
            os.chmod(self.root, 0o755)  # noqa: S103 - a workload's own user reads its tree below
        root = self._replace(root=os.path.realpath(self.root))
        found = root.read()
        root.check(found)
        if found is None:
            strangers = [name for name in os.listdir(root.root) if name != "lost+found" and name[0] != "."]
            if strangers:
                raise Trouble("refused", f"{root.root} is not empty and nobody's: it holds {strangers[0][:40]}")
            root._sign()
        make_folder(root.folder, 0o755)
        return root

    def _sign(self) -> None:
        """Linked, not renamed: of two that come at once, one finds the other's name."""
        temporary = _beside(self.owner)
        body = {"format": FORMAT, "installation": self.installation, "target": self.target}
        write_file(temporary, serialise(body), 0o644)
        try:
            os.link(temporary, self.owner)
        except FileExistsError:
            self.check(self.read())
        finally:
            os.unlink(temporary)
        sync_folder(self.root)


# -- releases: unpacked trees with their hashes and their specification ------------------------------------------------


class Release(NamedTuple):
    """One unpacked release as its files tell it. Both digests are computed from what stands there."""

    name: str
    specification: Json
    artifact: str
    configuration: str

    @classmethod
    def parse(cls, name: str, content: bytes) -> Release:
        body = parse(content)
        artifact = body["artifact"].rpartition("@")[2]
        if not DIGEST.fullmatch(artifact):
            raise ValueError("its artifact is not named by digest")
        return cls(name, body, artifact, configuration_digest(body["configuration"]))

    @property
    def configuration_of(self) -> Json:
        found: Json = self.specification["configuration"]
        return found

    @property
    def secrets(self) -> list[str]:
        """The references whose values it needs."""
        variables = (value for _, value in self.configuration_of.get("environment", []) if isinstance(value, dict))
        files = (file["secret"] for file in self.files)
        return sorted(secret_name(value) for value in (*variables, *files))

    @property
    def files(self) -> list[Json]:
        """The secrets that it finds in files."""
        return list(self.configuration_of.get("secrets", []))

    @property
    def grace(self) -> float:
        return float(self.configuration_of["stop_grace"]) / 1000


def configuration_digest(configuration: Json) -> str:
    """Of the canonical form (RFC 8785), which for whole numbers, text and ASCII keys is this one."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def secret_name(reference: Mapping[str, Any]) -> str:
    return "{}@{}".format(reference["reference"], reference.get("version") or "")


def load_release(place: Place, name: str) -> Release:
    try:
        return Release.parse(name, read_file(place.release(name) + "/specification.json", 4 << 20)[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Trouble("refused", f"release {name} cannot be read: {error}") from None


def hash_file(path: str) -> str:
    summer = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            summer.update(piece)
    return "sha256:" + summer.hexdigest()


def meaning(path: str, found: os.stat_result) -> str:
    """What a file says, whoever owns it: its type, whether it may be run, its content."""
    if stat.S_ISLNK(found.st_mode):
        return "link:" + os.readlink(path)
    if not stat.S_ISREG(found.st_mode):
        return f"special:{stat.S_IFMT(found.st_mode):o}"
    return "{}:{}".format("x" if found.st_mode & 0o111 else "-", hash_file(path))


def inventory(tree: str) -> dict[str, list[Any]]:
    """Path -> [stamp, meaning] of everything below but directories."""
    found: dict[str, list[Any]] = {}
    for folder, folders, files in os.walk(tree):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            path = os.path.join(folder, name)
            seen = os.lstat(path)
            found[os.path.relpath(path, tree)] = [list(stamp_of(seen)), meaning(path, seen)]
    return found


class Sweep:
    """One unpacked tree compared with what was sealed: by stat, and by content where that differs. What was added is
    not looked at, since a workload may write beside itself. Never takes more than a hundredth of the time."""

    def __init__(self, tree: str, sealed: Mapping[str, list[Any]]) -> None:
        self.tree = tree
        self.sealed = {path: (tuple(stamp), said) for path, (stamp, said) in sealed.items()}
        self.differences: tuple[str, ...] = ()
        self.not_before = 0.0

    def look(self, *, now: bool = False) -> tuple[str, ...]:
        began = time.monotonic()
        if now or began >= self.not_before:
            self.differences = tuple(itertools.islice(self._changed(), 3))
            ended = time.monotonic()
            self.not_before = ended + 100 * (ended - began) if ended - began > 0.001 else 0.0
        return self.differences

    def _changed(self) -> Iterator[str]:
        for path, (stamp, said) in self.sealed.items():
            whole = f"{self.tree}/{path}"
            try:
                seen = os.lstat(whole)
                if stamp_of(seen) == stamp:
                    continue
                if meaning(whole, seen) != said:
                    yield f"file {path[:120]}: found changed, wanted as unpacked"
                elif abs(time.time_ns() - seen.st_mtime_ns) > RACY:
                    self.sealed[path] = (stamp_of(seen), said)
            except (FileNotFoundError, NotADirectoryError):
                yield f"file {path[:120]}: found nothing, wanted as unpacked"


# -- looking -----------------------------------------------------------------------------------------------------------


class Eyes:
    """Looks at targets. What was read once is read again only when its stat has changed."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Stamp, Any]] = {}
        self._sweeps: dict[str, tuple[Stamp, Sweep]] = {}
        self._boot = boot()

    def look(self, ask: Mapping[str, Any], table: Callable[[], Listeners]) -> Json:
        """One target. `ports` in `ask` maps a placement's directory to the port that its health check asks. Whatever
        goes wrong, the target is unseen; only where there is no directory of ours nothing stands."""
        try:
            claim = Claim.of(ask)
            claim.check(self._read(claim.owner, _owner))
            try:
                names = sorted(os.listdir(claim.folder))
            except FileNotFoundError:
                return {"standings": []}
            standings = [self._listened(claim, name, ask, table) for name in names if _placement(name)]
        except (Trouble, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            return {"unseen": f"{str(ask.get('root'))[:120]} cannot be looked at: {error}"}
        return {"standings": [found for found in standings if stands(found)]}

    def _listened(self, claim: Claim, name: str, ask: Mapping[str, Any], table: Callable[[], Listeners]) -> Json:
        component, _, slot = name.partition(".")
        found = self.standing(claim.place(component, slot or "live"), component, slot or "live")
        self.listens(found, ask, name, table)
        return found

    def standing(self, place: Place, component: str, slot: str, *, instance: str | None = None) -> Json:
        """One placement. `workload` is what serves, or the run that `instance` belongs to."""
        state, runs = self._runs(place)
        serving = self._serving(place, runs, place.serving())
        if instance is not None and not (serving and instance == serving["instance"]):
            serving = next((run for run in runs if instance in run["instances"]), None)
        return {
            "component": component,
            "slot": slot,
            "sticker": self._sticker(place),
            "workload": None if serving is None else self._workload(place, serving, state),
            "kept": self._kept(place, serving["release"] if serving else None),
            "debris": self._debris(place, [run for run in runs if run is not serving and run["active"]]),
            "active": [[run["release"], run["instance"], run["key"]] for run in runs if run["active"]],
            "unfit": [],  # releases that run otherwise than they were made, and are to be started again
            "fence": self.fence(place),
            "pending": bool(state and state["lives"] and state["pending"]),
            "supervisor": state["supervisor"] if state and state["lives"] else None,
            "version": state["version"] if state and state["lives"] else None,
        }

    def pulse(self, ask: Mapping[str, Any]) -> list[Any]:
        """What changes when something happens at a target, and costs less than a look: stickers, what serves, what
        the supervisors wrote last, and whether they live."""
        folder, beats = Claim.of(ask).folder, []
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                place = Place(f"{folder}/{name}")
                state = None
                with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                    state = self._read(place.state, _state)
                files = [stamped(path) for path in (place.sticker, place.current, place.state)]
                beats.append([name, *files, state is not None and living(state["supervisor"]) is not None])
        return beats

    def _read(self, path: str, parser: Callable[[bytes], Any], limit: int = 4 << 20) -> Any:
        """The parsed content, from memory while the file is as it was; None when there is none."""
        known = self._files.get(path)
        try:
            if known is not None and known[0] == stamp_of(os.lstat(path)):
                return known[1]
            content, stamp = read_file(path, limit)
        except (FileNotFoundError, NotADirectoryError):
            self._files.pop(path, None)
            return None
        value = parser(content)
        if abs(time.time_ns() - stamp[2]) > RACY:
            self._remember(path, stamp, value)
        return value

    def _remember(self, path: str, stamp: Stamp, value: Any) -> None:
        if len(self._files) > 100_000:
            self._files.clear()
        self._files[path] = (stamp, value)

    def _sticker(self, place: Place) -> Json | None:
        try:
            found: Json | None = self._read(place.sticker, lambda content: {"text": content.decode()}, STICKER_BYTES)
            return found
        except UnicodeDecodeError:
            return {"problem": "the sticker is not text"}
        except (OSError, ValueError) as error:
            return {"problem": "the sticker cannot be read: %s" % (getattr(error, "strerror", None) or error)}

    def fence(self, place: Place) -> int:
        """The highest that has acted here. One that cannot be read is no reason to forget it."""
        try:
            body = self._read(place.journal, parse)
            return int(body["fence"]) if body else 0
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise Trouble("refused", f"{place.journal} cannot be read: {error}") from None

    def _runs(self, place: Place) -> tuple[Json | None, list[Json]]:
        """What the supervisor says, held against the kernel. What is about to change is asked again: a run that died
        this moment, of which the supervisor will say what came of it, and one that dies with its supervisor."""
        for _ in range(6):
            try:
                state = self._read(place.state, _state)
            except (OSError, ValueError, KeyError, TypeError):
                state = None  # whoever acts next finds the supervisor by its socket, and it writes anew
            if state is None:
                return None, []
            state = dict(state, lives=state["boot"] == self._boot and living(state["supervisor"]) is not None)
            runs = [dict(run, **self._truth(run, state)) for run in state["runs"]]
            if not any(run.pop("settling") for run in runs):
                break
            time.sleep(0.01)
        return state, runs

    def _truth(self, run: Json, state: Json) -> Json:
        here = state["boot"] == self._boot
        if here and run["state"] in ("running", "stopping") and living(run["instance"]) is not None:
            return {"shown": "running", "active": True, "settling": not state["lives"]}
        if not state["lives"] or run["state"] == "ended":
            return {"shown": "stopped", "active": False, "settling": False}
        shown = "restarting" if run["again"] and run["state"] != "stopping" else "stopped"
        return {"shown": shown, "active": True, "settling": run["state"] == "running"}

    def _serving(self, place: Place, runs: list[Json], current: str | None) -> Json | None:
        """What runs, whatever `current` says; of several what `current` names; of none what it would start."""
        active = [run for run in runs if run["active"]]
        named = [run for run in active if run["release"] == current] or active
        if named:
            return named[-1]
        if current is None:
            return None
        ended = [run for run in runs if run["release"] == current]
        return ended[-1] if ended else self._unstarted(place, current)

    def _unstarted(self, place: Place, name: str) -> Json:
        release = self._release(place, name)
        return {
            "release": name,
            "instance": "unstarted:" + name,
            "instances": [],
            "artifact": release.artifact if release else None,
            "configuration": release.configuration if release else None,
            "shown": "stopped",
            "active": False,
            "key": None,
            "started_ms": None,
            "restarts": 0,
            "exit_code": None,
            "ports": {},
        }

    def _release(self, place: Place, name: str) -> Release | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found: Release | None = self._read(
                place.release(name) + "/specification.json", lambda content: Release.parse(name, content)
            )
            return found
        return None

    def differences(self, place: Place, name: str, *, now: bool = False) -> tuple[str, ...]:
        """How the unpacked tree differs from what was sealed."""
        path = place.release(name)
        sweep = self._sweeps.get(path)
        try:
            stamp = stamp_of(os.lstat(path + "/files.json"))
            if sweep is None or sweep[0] != stamp:
                content, stamp = read_file(path + "/files.json", 256 << 20)
                if len(self._sweeps) > 10_000:
                    self._sweeps.clear()
                sweep = stamp, Sweep(path + "/tree", parse(content)["files"])
                self._sweeps[path] = sweep
        except (OSError, ValueError, KeyError, TypeError):
            return ("files.json: found nothing that can be read, wanted the hashes of the unpacked files",)
        return sweep[1].look(now=now)

    def _workload(self, place: Place, run: Json, state: Json | None) -> Json:
        """A run with what speaks against its own word: files or a specification changed by hand, no supervisor."""
        release = self._release(place, run["release"])
        files = self.differences(place, run["release"])
        others = []
        if release is None or (release.artifact, release.configuration) != (run["artifact"], run["configuration"]):
            others.append("specification.json: found changed, wanted as started")
        if run["active"] and not (state and state["lives"]):
            others.append("supervisor: found nothing, wanted one")
        return {
            "release": run["release"],
            "instance": run["instance"],
            "instances": run["instances"],
            "artifact": None if files else run["artifact"],
            "configuration": None if others else run["configuration"],
            "state": run["shown"],
            "key": run["key"],
            "started_ms": run["started_ms"],
            "restarts": run["restarts"],
            "exit_code": run["exit_code"],
            "ports": run["ports"],
            "differences": list(files) + others,
        }

    def _kept(self, place: Place, serving: str | None) -> list[list[str]]:
        found = [self._release(place, name) for name in release_names(place) if name != serving]
        return [[release.artifact, release.configuration] for release in found if release is not None]

    def _debris(self, place: Place, strays: Iterable[Json]) -> list[str]:
        halves = []
        with contextlib.suppress(FileNotFoundError):
            halves = ["releases/" + name for name in os.listdir(place.releases) if name[0] == "."]
        return sorted(halves + ["run " + run["instance"] for run in strays])

    def listens(
        self,
        standing: Json,
        ask: Mapping[str, Any],
        name: str,
        table: Callable[[], Listeners],
    ) -> None:
        port, workload = ask.get("ports", {}).get(name), standing["workload"]
        if port is not None and workload is not None and workload["state"] == "running":
            port = int(workload["ports"].get(str(port), port))
            who, inodes = self.listening(table(), workload["instance"], str(ask["address"]), port)
            workload["listening"] = {"port": port, "who": who, "inodes": list(inodes)}

    def listening(self, table: Listeners, instance: str, address: str, port: int) -> tuple[str, tuple[int, ...]]:
        return listening(table, instance, address, port)

    def lives(self, instance: str) -> bool:
        return living(instance) is not None


def stands(standing: Json) -> bool:
    """Whether there is anything there but the journal that outlives a removal."""
    return bool(standing["sticker"] or standing["workload"] or standing["kept"] or standing["debris"])


def release_names(place: Place) -> list[str]:
    """The unpacked releases, most lately started first."""
    try:
        with os.scandir(place.releases) as entries:
            found = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries]
    except FileNotFoundError:
        return []
    return [name for _, name in sorted(found, reverse=True) if RELEASE.fullmatch(name)]


def stamped(path: str) -> Stamp | None:
    try:
        return stamp_of(os.lstat(path))
    except OSError:
        return None


def _state(content: bytes) -> Json:
    """What a supervisor wrote, complete; else ValueError, KeyError or TypeError."""
    body = parse(content)
    if not isinstance(body["pending"], bool) or not isinstance(body["version"], str):
        raise ValueError("not the state of a supervisor")
    names = ("release", "artifact", "configuration", "instance", "instances", "state", "again", "restarts")
    for run in body["runs"]:
        {name: run[name] for name in (*names, "exit_code", "started_ms", "key", "ports")}
    return {**body, "supervisor": str(body["supervisor"]), "boot": str(body["boot"])}


def _placement(name: str) -> bool:
    """Whether a directory is named like one of a placement."""
    component, _, slot = name.partition(".")
    return bool(NAME.fullmatch(component) and NAME.fullmatch(slot or "live"))


def _owner(content: bytes) -> tuple[str, str]:
    body = parse(content)
    return str(body["installation"]), str(body["target"])


# -- requests of the driver --------------------------------------------------------------------------------------------


class Session:
    """One holder's requests, and the locks and orders they hold until `close`. Every request that changes something
    names a fence; a lower one than was ever seen at the placement is refused here, on the host."""

    at_once: tuple[str, ...] = ("look", "pulse")  # so short that they are answered before the next request is read

    def __init__(self, eyes: Eyes | None = None) -> None:
        self.eyes = eyes or Eyes()
        self.locks: dict[str, int] = {}
        self.orders: dict[int, socket.socket] = {}
        self.errands: dict[int, Errand] = {}

    def knows(self, do: str) -> bool:
        return do in VERBS

    def answer(self, request: Mapping[str, Any]) -> Json:
        """`{"answer": …}` or `{"error": {"code", "text", "missing"}}`, never an exception."""
        try:
            do = str(request.get("do"))
            if not self.knows(do):
                raise Trouble("invalid", f"{do[:40]!r} is not a request")
            return {"answer": getattr(self, do)(request)}
        except Trouble as trouble:
            return {"error": {"code": trouble.code, "text": str(trouble), "missing": trouble.missing}}
        except OSError as error:
            text = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
            return {"error": {"code": "refused", "text": text, "missing": []}}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            text = f"not a request: {type(error).__name__}: {str(error)[:80]}"
            return {"error": {"code": "invalid", "text": text, "missing": []}}

    def close(self) -> None:
        """Let go of everything; what the supervisor was told, it still does, and an errand goes on with its lock."""
        for token in list(self.orders):
            self._hang_up(token)
        while self.errands:
            self.errands.popitem()[1].leave()
        while self.locks:
            os.close(self.locks.popitem()[1])

    # .. looking ..

    def look(self, request: Mapping[str, Any]) -> Json:
        """All the targets asked for, and the sockets that listen read once for all of them."""
        table: list[Listeners] = []

        def once() -> Listeners:
            if not table:
                table.append(listeners())
            return table[0]

        return {"targets": [self.eyes.look(ask, once) for ask in request["targets"]]}

    def pulse(self, request: Mapping[str, Any]) -> Json:
        return {"targets": [self.eyes.pulse(ask) for ask in request["targets"]]}

    def stirred(self, request: Mapping[str, Any]) -> Json:
        """The pulse, as soon as it is another than the one that is known, or when the time is over."""
        until = time.monotonic() + float(request["timeout"])
        while True:
            found: Json = json.loads(json.dumps(self.pulse(request)))
            if found["targets"] != request["known"] or time.monotonic() >= until:
                return found
            time.sleep(float(request["every"]))

    def listens(self, request: Mapping[str, Any]) -> Json:
        """Who holds these ports now. Asked after an answer came, so that the answer can be believed; with `within`
        until all are ours or one of the instances is gone."""
        until, pause = time.monotonic() + float(request.get("within", 0)), 0.002
        while True:
            table = listeners()
            found = [
                self.eyes.listening(table, ask["instance"], str(ask["address"]), int(ask["port"]))
                for ask in request["asks"]
            ]
            settled = all(who == "ours" for who, _ in found) or not all(
                self.eyes.lives(ask["instance"]) for ask in request["asks"]
            )
            if settled or time.monotonic() >= until:
                return {"found": [{"who": who, "inodes": list(inodes)} for who, inodes in found]}
            time.sleep(pause)
            pause = min(0.01, pause * 1.5)

    def standing(self, request: Mapping[str, Any]) -> Json:
        """One placement; `thorough`: its files compared now and not when their turn comes."""
        claim = Claim.of(request)
        claim.check(claim.read())
        component, slot = str(request["component"]), str(request["slot"])
        place = claim.place(component, slot)
        if request.get("thorough"):
            for name in release_names(place):
                self.eyes.differences(place, name, now=True)
        found = self.eyes.standing(place, component, slot, instance=request.get("instance"))
        port = {} if request.get("port") is None else {"": request["port"]}
        self.eyes.listens(found, {"address": request.get("address"), "ports": port}, "", listeners)
        return found

    def examine(self, request: Mapping[str, Any]) -> Json:
        """What this host has for a target, changing nothing: its Python, its root, room, who we are, the time."""
        claim = Claim.of(request)
        return {
            "python": python_at(str(request["python"])),
            "root": root_at(claim),
            "disk": room_at(claim.root),
            "user": os.geteuid(),
            "time": time.time(),
            "machine": os.uname().machine,
            "sandbox": sandboxed() if request.get("sandbox") else None,
            "memory": _room_in_memory(),
        }

    # .. holding ..

    def hold(self, request: Mapping[str, Any]) -> Json:
        """Take the placement's lock, or Busy."""
        place = self._place(request)
        if place.path in self.locks:
            return {"place": place.path}
        place.make()
        self.locks[place.path] = lock(
            place, {"job": str(request.get("job", "")), "fence": int(request.get("fence", 0))}
        )
        own_file(place)
        return {"place": place.path}

    def _place(self, request: Mapping[str, Any]) -> Place:
        return Claim.of(request).take().place(str(request["component"]), str(request["slot"]))

    def _held(self, request: Mapping[str, Any]) -> Place:
        """The placement, if this session holds it and the fence is not older than one that acted here."""
        place = self._place(request)
        if place.path not in self.locks:
            raise Trouble("invalid", f"{place.path} is changed without holding it")
        fence, seen = int(request["fence"]), self.eyes.fence(place)
        if fence < seen:
            raise Trouble("stale_fence", f"{place.path} was changed under fence {seen}, this comes under {fence}")
        if fence > seen:
            write_file(place.journal, serialise({"format": FORMAT, "fence": fence}), 0o644)
        return place

    # .. releases ..

    def find(self, request: Mapping[str, Any]) -> Json:
        """The unpacked release with this content, if one stands and is as it was sealed."""
        place, wanted = self._held(request), (request["artifact"], request["configuration"])
        for name in release_names(place):
            release = self.eyes._release(place, name)
            same = release is not None and (release.artifact, release.configuration) == wanted
            if same and not self.eyes.differences(place, name, now=True):
                return {"release": name}
        return {"release": None}

    def stage(self, request: Mapping[str, Any]) -> Json:
        """A directory in which to unpack `tree` from `layers`; what earlier tries left half-made is taken away."""
        place = self._held(request)
        clean(place)
        staging = f"{place.releases}/.new-{os.getpid()}-{next(_numbers)}"
        os.makedirs(staging + "/layers", 0o700)
        return {"staging": staging, "tree": staging + "/tree", "layers": staging + "/layers"}

    def _staged(self, request: Mapping[str, Any]) -> tuple[Place, str]:
        place, staging = self._held(request), str(request["staging"])
        if os.path.dirname(staging) != place.releases or not os.path.basename(staging).startswith(".new-"):
            raise Trouble("invalid", f"{staging[-80:]!r} was not staged here")
        return place, staging

    def bring(self, request: Mapping[str, Any]) -> Json:
        """A piece of the tree as it was unpacked elsewhere, a tar; pieces may come in any order."""
        _, staging = self._staged(request)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(staging + "/layers/tree.tar", flags, 0o600), "wb") as file:
            file.seek(int(request["offset"]))
            file.write(request["body"])
        return {}

    def unfold(self, request: Mapping[str, Any]) -> Json:
        """Unpack the tree that was brought, if it is what was sent."""
        _, staging = self._staged(request)
        if hash_file(staging + "/layers/tree.tar") != request["digest"]:
            raise Trouble("refused", "the tree that arrived is not the one that was sent")
        unfold(staging + "/layers/tree.tar", staging + "/tree")
        return {}

    def seal(self, request: Mapping[str, Any]) -> Json:
        """Record what was unpacked, bring it to the disk, and give it its name: from here on it is a release."""
        place, staging = self._staged(request)
        remove_tree(staging + "/layers")
        body = serialise(dict(request["specification"], format=FORMAT))
        release = Release.parse("", body)
        write_file(staging + "/specification.json", body, 0o600, durable=False)
        sealed = {"format": FORMAT, "artifact": release.artifact, "files": inventory(staging + "/tree")}
        write_file(staging + "/files.json", json.dumps(sealed, sort_keys=True).encode(), 0o600, durable=False)
        for folder in (staging, staging + "/tree"):
            os.chmod(folder, 0o755)  # noqa: S103 - a workload's own user reads its tree
        sync_filesystem(staging)
        name = self._free_name(place, f"{release.artifact[7:19]}-{release.configuration[7:19]}")
        os.rename(staging, place.release(name))
        sync_folder(place.releases)
        return {"release": name}

    def tidy(self, request: Mapping[str, Any]) -> Json:
        """Take away what was half-made."""
        clean(self._held(request))
        return {}

    def _free_name(self, place: Place, name: str) -> str:
        """A damaged release of the same content may still serve under the plain name."""
        names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(1)))
        return next(found for found in names if not os.path.lexists(place.release(found)))

    def fits(self, request: Mapping[str, Any]) -> Json:
        """Whether this release could be started, told before anything that serves is stopped."""
        place = self._held(request)
        release = load_release(place, str(request["release"]))
        fit(place, release)
        return {}

    def switch(self, request: Mapping[str, Any]) -> Json:
        place = self._held(request)
        place.point(load_release(place, str(request["release"])).name)
        return {}

    def unpoint(self, request: Mapping[str, Any]) -> Json:
        """Nothing serves any more."""
        place = self._held(request)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.current)
        return {}

    def drop(self, request: Mapping[str, Any]) -> Json:
        """Take one release away, unless it serves or runs."""
        place, name = self._held(request), str(request["release"])
        if name not in self._used(place):
            self._discard(place, name)
        return {}

    def collect(self, request: Mapping[str, Any]) -> Json:
        """Keep what serves or runs, the `keep` most lately started others, and `spare`, a content that may be any of
        them; take the rest away, and whatever is damaged."""
        place, kept = self._held(request), 0
        clean(place)
        used = self._used(place)
        for name in release_names(place):
            if name in used:
                continue
            release = self.eyes._release(place, name)
            spared = release is not None and [release.artifact, release.configuration] == request.get("spare")
            if self.eyes.differences(place, name) or not (spared or kept < int(request["keep"])):
                self._discard(place, name)
            else:
                kept += 1
        return {}

    def _discard(self, place: Place, name: str) -> None:
        remove_tree(place.release(name))

    def _used(self, place: Place) -> set[str]:
        _, runs = self.eyes._runs(place)
        return {run["release"] for run in runs if run["active"]} | {place.serving() or ""}

    # .. the supervisor ..

    def ensure(self, request: Mapping[str, Any]) -> Json:
        """A supervisor that listens; `same` when it runs this very file."""
        place = self._held(request)
        status = ensure(place, str(request["python"]))
        return {"supervisor": status["supervisor"], "same": status["version"] == version()}

    def dismiss(self, request: Mapping[str, Any]) -> Json:
        """Tell the supervisor to end its workload and itself; with `force`, end both."""
        place = self._held(request)
        found = supervisor_of(place)
        if found is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL if request.get("force") else signal.SIGTERM)
        return {}

    def gone(self, request: Mapping[str, Any]) -> Json:
        """Wait for the supervisor to be gone; changes nothing."""
        place, until = Claim.of(request).place(str(request["component"]), str(request["slot"])), time.monotonic()
        until += float(request["timeout"])
        while supervisor_of(place) is not None and time.monotonic() < until:
            time.sleep(0.01)
        return {"gone": supervisor_of(place) is None}

    def order(self, request: Mapping[str, Any]) -> Json:
        """Send an order and do not wait for its answer: whatever becomes of us, the supervisor carries it out."""
        place, token = self._held(request), next(_numbers)
        line = dial(place)
        self.orders[token] = line
        line.sendall(json.dumps(request["order"]).encode() + b"\n")
        return {"token": token}

    def ask(self, request: Mapping[str, Any]) -> Json:
        """A question to the supervisor, which may be asked without holding the placement."""
        place = Claim.of(request).place(str(request["component"]), str(request["slot"]))
        if request["order"]["do"] not in ("check", "status"):
            raise Trouble("invalid", "an order is given by who holds the placement")
        return converse(place, request["order"], float(request["timeout"]))

    def awaited(self, request: Mapping[str, Any]) -> Json:
        """The answer to an order; changes nothing."""
        token = int(request["token"])
        try:
            return receive(self.orders[token], float(request["timeout"]))
        finally:
            self._hang_up(token)

    # .. errands ..

    def run(self, request: Mapping[str, Any]) -> Json:
        """Begin a program beside a deployment, and do not wait for its end."""
        lock = self._lock(request)
        ask = {
            "argv": [str(word) for word in request["argv"]],
            "env": {"PATH": PATH, **{str(name): str(value) for name, value in request["env"].items()}},
            "around": SANDBOX if sandboxed() else (),
            "within": float(request["within"]),
            "whole_group": True,
        }
        return {"token": self._begin(ask, lock)}

    def _lock(self, request: Mapping[str, Any]) -> int:
        """What is held, and goes on being held by what is begun."""
        return self.locks[self._held(request).path]

    def _begin(self, ask: Json, lock: int) -> int:
        token = next(_numbers)
        self.errands[token] = Errand(ask, lock)
        return token

    def ran(self, request: Mapping[str, Any]) -> Json:
        """How what was begun has ended; changes nothing."""
        return self.errands.pop(int(request["token"])).ended()

    def _hang_up(self, token: int) -> None:
        line = self.orders.pop(token, None)
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for the answer
            line.close()

    def clear(self, request: Mapping[str, Any]) -> Json:
        """Take everything away but the sticker, and the journal, whose fence outlives a removal."""
        place = self._held(request)
        with alone(place):
            end_orphans(place.path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place.current)
            forget_all_files(place)
            for folder in (place.releases, place.logs):
                remove_tree(folder)
            for name in ("state.json", "pid", "socket", "trouble.log"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{place.supervisor}/{name}")
        clean(place)
        return {}

    # .. stickers and logs ..

    def wear(self, request: Mapping[str, Any]) -> Json:
        write_file(self._held(request).sticker, str(request["content"]).encode(), 0o644)
        return {}

    def bare(self, request: Mapping[str, Any]) -> Json:
        place = self._held(request)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.sticker)
            sync_folder(place.path)
        return {}

    def log(self, request: Mapping[str, Any]) -> Json:
        """The last lines, or what came after `position`."""
        place = Claim.of(request).place(str(request["component"]), str(request["slot"]))
        if request.get("position") is None:
            return log_tail(place, int(request["tail"]))
        return log_after(place, [int(part) for part in request["position"]])


LOOKING = ("look", "pulse", "stirred", "listens", "standing", "log", "ask", "examine")
HOLDING = ("hold", "wear", "bare", "clear")
RELEASES = ("find", "stage", "bring", "unfold", "seal", "tidy", "fits", "switch", "unpoint", "drop", "collect")
SUPERVISING = ("ensure", "dismiss", "gone", "order", "awaited")
ERRANDS = ("run", "ran")
VERBS = frozenset((*LOOKING, *HOLDING, *RELEASES, *SUPERVISING, *ERRANDS))


def unfold(archive: str, tree: str) -> None:
    """A tar of directories, files and links into a directory that must not exist yet, every name confined to it."""
    import tarfile  # a megabyte that no supervisor needs

    os.mkdir(tree, 0o755)
    top, folders = os.path.realpath(tree), []
    with tarfile.open(archive, "r:") as tar:
        tar.extraction_filter = lambda member, _: member  # checked here, and older ones know no filter
        for member in tar:
            path = os.path.normpath(os.path.join(top, member.name))
            inside = os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path)
            if path == top and member.isdir():
                continue
            if inside != path or not path.startswith(top + "/"):
                raise Trouble("refused", f"{member.name[:80]!r} leaves the tree")
            if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
                raise Trouble("refused", f"{member.name[:80]!r} is neither a directory, a file nor a link")
            tar.extract(member, top, set_attrs=False)
            if member.isdir():
                folders.append((path, member.mode))
            elif member.isreg():
                os.chmod(path, member.mode & 0o755 | 0o400)
    for path, mode in reversed(folders):
        os.chmod(path, mode & 0o755 | 0o700)


def lock(place: Place, holder: Json | None = None) -> int:
    """The handle that holds the placement until it is closed. Who holds it stands in the file, for whoever must wait:
    that is told and never believed, since only the lock itself says whether somebody does."""
    handle = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        told = _holder(handle)
        os.close(handle)
        raise Trouble("busy", f"another action holds {place.path}{told}") from None
    with contextlib.suppress(OSError):  # a full disk keeps nobody from holding
        os.ftruncate(handle, 0)
        body = {"format": FORMAT, **(holder or {}), "pid": os.getpid(), "since": time.time()}
        os.pwrite(handle, serialise(body), 0)
    return handle


def _holder(handle: int) -> str:
    """What stands in the file of who holds it."""
    try:
        body = parse(os.pread(handle, 4096, 0))
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(body["since"])))
        under = f" for {str(body['job'])[:200]} under fence {int(body['fence'])}" if body.get("job") else ""
        return f": process {int(body['pid'])}{under}, since {since}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


@contextlib.contextmanager
def held(place: Place) -> Iterator[None]:
    handle = lock(place)
    try:
        yield
    finally:
        os.close(handle)


def clean(place: Place) -> None:
    """Take away what was half-made here; only for who holds the placement."""
    for folder in (place.path, place.releases):
        with contextlib.suppress(FileNotFoundError):
            clean_folder(folder)


def clean_folder(folder: str) -> None:
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if name[0] == "." and os.path.isdir(path) and not os.path.islink(path):
            remove_tree(path)
        elif name[0] == ".":
            os.unlink(path)


# -- errands -----------------------------------------------------------------------------------------------------------

# Runs one program to its end, whatever becomes of us: what to run comes as JSON on standard input, how it ended goes to
# standard output and into a file.
RUNNER = """\
import json, os, signal, subprocess, sys, threading, time
order, child, kept = json.load(sys.stdin), None, bytearray()
def feed():
    try:
        with child.stdin:
            child.stdin.write(order["stdin"].encode())
    except OSError:
        pass
def keep():
    for piece in iter(lambda: os.read(child.stdout.fileno(), 65536), b""):
        kept.extend(piece)
        del kept[:-65536]
def tell(number):
    try:
        os.killpg(child.pid, number)
    except OSError:
        return False
    return True
def end():
    until = time.monotonic() + order["grace"]
    tell(signal.SIGTERM)
    while time.monotonic() < until and tell(0):
        child.poll()
        time.sleep(0.02)
    tell(signal.SIGKILL)
    child.wait()
def once(around, *fds):
    global child
    try:
        output = open(order["log"], "wb") if order["log"] else subprocess.PIPE
        child = subprocess.Popen([*around, *order["argv"]], cwd=order["cwd"], env=order["env"], stdout=output,
                                 stdin=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                                 pass_fds=[*order["pass"], *fds])
        reading = threading.Thread(target=keep, daemon=True)
        if not order["log"]:
            reading.start()
        threading.Thread(target=feed, daemon=True).start()
        code = child.wait(order["within"])
        code = code if code >= 0 else 128 - code
        why = "ended with exit code %d" % code
    except subprocess.TimeoutExpired:
        code, why = None, "was not done within %g s" % order["within"]
    except OSError as error:
        return 127, "cannot be run: %s" % (error.strerror or error)
    if code is None or order["whole_group"]:
        end()
    if order["log"]:
        with open(order["log"], "rb") as log:
            log.seek(max(0, os.path.getsize(order["log"]) - 4096))
            kept[:] = log.read()
    else:
        reading.join(2)
    return code, why
def shut_in():
    for _ in range(order["tries"]):
        told, tell = os.pipe()
        kept.clear()
        code, why = once([*order["around"], "--json-status-fd", str(tell), "--"], tell)
        os.close(tell)
        if child is None or code is None or b"exit-code" in os.read(told, 65536) or b"bwrap: execvp" in kept:
            break
        time.sleep(0.02)
    return code, why
code, why = shut_in() if order["around"] else once([])
tail = bytes(kept).decode(errors="replace")
found = {"format": order["format"], "token": order["token"], "exit_code": code, "why": why}
found["said"] = tail.strip().splitlines()[-1:]
if order["result"]:
    beside = order["result"] + ".new"
    with open(beside, "w") as file:
        json.dump(found, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(beside, order["result"])
print(json.dumps(dict(found, tail=tail)))
"""

# What an errand runs in where bubblewrap is there and works: it sees the host's files, and may
# change none of them but those of /tmp.
SANDBOX = (
    *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", "/tmp", "/tmp"),  # noqa: S108
    *("--unshare-pid", "--unshare-ipc", "--new-session", "--die-with-parent"),
)
TRIES = 8  # of bubblewrap: it gives up where a mount, say of a container that ends, goes while it looks
_sandboxed: list[bool] = []


def sandboxed() -> bool:
    """Whether bubblewrap is installed and may do its work here; found out once."""
    if not _sandboxed:
        _sandboxed.append(on_path(SANDBOX[0], PATH) is not None and any(_shut_in() for _ in range(TRIES)))
    return _sandboxed[0]


def _shut_in() -> bool:
    import subprocess

    argv, null = [*SANDBOX, "true"], subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(argv, stdin=null, capture_output=True, timeout=10, env={"PATH": PATH}, check=False)
        return done.returncode == 0
    return False


class Errand:
    """One program under a runner of its own, which holds the lock until the program has ended. What it was given:
    `argv`, `env` and `within`; `cwd`, `stdin`, a `log` for its output, a `result` file, a sandbox `around` it, whether
    its `whole_group` ends with it, `grace` between asking it to end and ending it, and `holds` when it is to hold the
    lock itself."""

    def __init__(self, ask: Mapping[str, Any], lock: int) -> None:
        import subprocess

        plain = {"format": FORMAT, "token": "", "cwd": "/", "stdin": "", "log": "", "result": "", "grace": 2.0}
        order = {
            **plain,
            "whole_group": False,
            "around": (),
            "tries": TRIES,
            **ask,
            "pass": [lock] if ask.get("holds") else [],
        }
        self.until = time.monotonic() + float(order["within"]) + float(order["grace"]) + ERRAND_ENDS
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock],
            start_new_session=True,
            cwd="/",
            env={"PATH": PATH},
        )
        assert self.process.stdin is not None
        with self.process.stdin:
            self.process.stdin.write(json.dumps(order).encode())
        self.process.stdin = None  # or waiting for it would close it once more

    def ended(self) -> Json:
        import subprocess

        try:
            output, _ = self.process.communicate(timeout=max(0.1, self.until - time.monotonic()))
            return dict(parse(output))
        except (subprocess.TimeoutExpired, ValueError):
            self.leave()
            raise Trouble("unknown", "nobody tells how the command ended; what it did is to be looked at") from None

    def leave(self) -> None:
        """Let it go on alone; somebody has to be there when it ends."""
        import threading

        if self.process.stdout is not None:
            self.process.stdout.close()
        threading.Thread(target=self.process.wait, daemon=True).start()


# -- the line to a supervisor ------------------------------------------------------------------------------------------


def version() -> str:
    """Of this file: a supervisor that runs another one is replaced at the next deploy."""
    return hashlib.sha256(source()).hexdigest()[:16]


def source() -> bytes:
    if SOURCE:
        return SOURCE
    with open(os.path.abspath(__file__), "rb") as file:
        return file.read()


IMPORTED = """\
import sys
sys.path.append(sys.argv[1].rpartition("/")[0])
import host
sys.exit(host.main(sys.argv[2:]))
"""


def own_file(place: Place) -> str:
    """The file that a supervisor is started from: this one, or where another machine brought it, a copy below the
    placement's own root, which later sessions are started from too."""
    return keep_own_file(os.path.dirname(os.path.dirname(place.path)))


def started_by(path: str) -> list[str]:
    """What an interpreter runs that file by. Where it is, it is imported, since what is compiled of it is kept then; of
    a program's own file nothing is, and compiling it takes longer than all that a supervisor has to do."""
    return ["-c", IMPORTED, path] if path.endswith("/host.py") else [path]  # a copy there has another name


def keep_own_file(root: str) -> str:
    """This file below the root, where another machine brought it; else where it is."""
    if not (SOURCE or KEPT.fullmatch(os.path.basename(__file__))):
        return os.path.abspath(__file__)
    folder = root + "/.holdfast"
    path = f"{folder}/holdfast_{version()}.py"
    if not os.path.exists(path):
        make_folder(folder, 0o755)
        write_file(path, source(), 0o644)
        for name in os.listdir(folder):
            if KEPT.fullmatch(name) and name != os.path.basename(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")
    return path


def supervisor_of(place: Place) -> Process | None:
    """The supervisor that lives, by the file that it writes first of all."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        body = parse(read_file(place.supervisor + "/pid", 4096)[0])
        if body["boot"] == boot():
            return living(body["supervisor"])
    return None


@contextlib.contextmanager
def alone(place: Place) -> Iterator[None]:
    """Hold the supervisor's own lock: none lives meanwhile, and none can start."""
    handle = os.open(place.supervisor + "/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(200):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
        else:
            raise Trouble("busy", f"a supervisor of {place.path} does not end")
        yield
    finally:
        os.close(handle)


def dial(place: Place) -> socket.socket:
    """By the directory's handle: a socket's path may have only a hundred characters, a root has more."""
    folder = os.open(place.supervisor, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(5)
        line.connect(f"/proc/self/fd/{folder}/socket")
        return line
    except (FileNotFoundError, ConnectionError, BlockingIOError, socket.timeout):  # noqa: UP041 - not yet one in Python 3.8
        line.close()
        raise Trouble("unreachable", f"the supervisor of {place.path} does not answer") from None
    finally:
        os.close(folder)


def converse(place: Place, order: Json, timeout: float) -> Json:
    line = dial(place)
    with contextlib.closing(line):
        line.sendall(json.dumps(order).encode() + b"\n")
        return receive(line, timeout)


def receive(line: socket.socket, timeout: float) -> Json:
    """One line of JSON within the time."""
    content, until = b"", time.monotonic() + timeout
    while not content.endswith(b"\n"):
        line.settimeout(max(0.001, until - time.monotonic()))
        try:
            piece = line.recv(1 << 16)
        except socket.timeout:  # noqa: UP041 - not yet one in Python 3.8
            raise Trouble("unknown", f"the supervisor did not answer within {timeout:g} s") from None
        except OSError:
            piece = b""
        if not piece:
            raise Trouble("unknown", "the supervisor hung up; what it did is to be looked at")
        content += piece
    found: Json = json.loads(content)
    if "error" in found:
        raise Trouble(found["error"]["code"], found["error"]["text"], found["error"]["missing"])
    answer: Json = found["answer"]
    return answer


def ensure(place: Place, python: str) -> Json:
    """The status of a supervisor that listens, started where none does."""
    for _ in range(2):
        try:
            return converse(place, {"do": "status"}, 5)
        except Trouble as trouble:
            if trouble.code not in ("unreachable", "unknown"):
                raise
        spawn(place, python)
    return converse(place, {"do": "status"}, 5)


def spawn(place: Place, python: str) -> None:
    """A supervisor of its own session that inherits nothing but PATH."""
    import subprocess  # a megabyte that no supervisor needs

    found = on_path(python, os.environ.get("PATH", PATH))
    if found is None:
        raise Trouble("refused", f"there is no {python[:80]} on the target")
    argv = [found, "-I", "-S", *started_by(own_file(place)), "supervise", place.path]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", PATH)},
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise Trouble("unknown", f"the supervisor of {place.path} did not say that it is ready") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise Trouble("refused", f"no supervisor could be started by {found}: {said[-1][:200]}")


# -- what a target needs of its host -----------------------------------------------------------------------------------


def python_at(word: str) -> Json:
    """Where a program of that name is, and the version it says; `version` None: it is no Python that runs."""
    import subprocess

    found = on_path(word, os.environ.get("PATH", PATH))
    if found is None:
        return {"path": None, "version": None}
    argv = [found, "-I", "-S", "-c", "import sys; print(*sys.version_info[:3])"]
    version = None
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True).stdout
        version = [int(part) for part in said.split()] or None
    return {"path": found, "version": version}


def root_at(claim: Claim) -> Json:
    """Whether there is a root, whose it is, and whether we could write there or make it."""
    there, standing = os.path.lexists(claim.root), nearest(claim.root)
    found: Json = {
        "there": there,
        "folder": os.path.isdir(standing),
        "nearest": standing,
        "owner": None,
        "strangers": [],
    }
    found["writable"] = os.access(standing, os.W_OK | os.X_OK)
    if there and found["folder"]:
        with contextlib.suppress(PermissionError):
            try:
                owner = claim.read()
                found["owner"] = owner and list(owner)
            except (ValueError, LookupError, TypeError):
                found["owner"] = ["unreadable", "unreadable"]
            names = os.listdir(claim.root) if found["owner"] is None else []
            found["strangers"] = [name for name in names if name != "lost+found" and name[0] != "."][:1]
    return found


def room_at(path: str) -> Json:
    room = os.statvfs(nearest(path))
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    return {"free": free, "size": size, "inodes_free": room.f_favail, "inodes": room.f_files}


def nearest(path: str) -> str:
    """The path, or the first above it that is there."""
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    return path


# -- secrets as files --------------------------------------------------------------------------------------------------


def rooms() -> list[str]:
    """Where our directory in memory may be, the best first."""
    me = os.geteuid()
    return [f"{top}/holdfast-{me}" for top in (f"/run/user/{me}" if me else "/run", SHARED)]


def room_in_memory() -> str:
    """The first of them that can be had; Trouble, before anything is changed, where none can."""
    with open("/proc/self/mounts") as file:
        mounts = file.read()
    for room in rooms():
        top = os.path.dirname(room)
        if file_system(top, mounts) in IN_MEMORY and os.access(top, os.W_OK | os.X_OK) and _may_be_ours(room):
            return room
    tops = " nor ".join(os.path.dirname(room) for room in rooms())
    raise Trouble(
        "refused",
        f"secrets: files are kept in memory, and neither {tops} is a tmpfs in which we may have a directory: mount "
        "one there, or give the secrets in environment",
    )


def _room_in_memory() -> str | None:
    try:
        return room_in_memory()
    except Trouble:
        return None


def _may_be_ours(room: str) -> bool:
    """In /dev/shm anybody may have been there before us."""
    try:
        found = os.lstat(room)
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def file_system(path: str, mounts: str) -> str:
    """The kind of the file system that a path is on; of two at one place the last is seen."""
    found, depth = "nothing", -1
    for line in mounts.splitlines():
        _, place, kind, _ = line.split(" ", 3)
        above = place.encode().decode("unicode_escape").rstrip("/")
        if (path == above or path.startswith(above + "/")) and len(above) >= depth:
            found, depth = kind, len(above)
    return found


def keep_files(folder: str, files: Mapping[str, str], become: tuple[int, int, str | None] | None) -> None:
    """These files and no others, each for the workload to read and nobody else."""
    room = os.path.dirname(folder)
    make_folder(room, 0o711)
    if not _may_be_ours(room):
        raise Trouble("refused", f"secrets: {room} is not ours alone")
    forget_files(folder)
    make_folder(folder, 0o700)
    for name, content in files.items():
        path = f"{folder}/{os.path.basename(name)}"
        write_file(path, content.encode(), 0o400, durable=False)
        if become is not None:
            os.chown(path, become[0], become[1])
    if become is not None:
        os.chown(folder, -1, become[1])
        os.chmod(folder, 0o750)  # noqa: S103 - of its group; the files are the workload's alone


def forget_files(folder: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)


def files_of(place: Place) -> str:
    """What the directories of all runs of a placement begin with, in whatever room."""
    return hashlib.sha256(os.path.realpath(place.path).encode()).hexdigest()[:16] + "-"


def forget_all_files(place: Place) -> None:
    """Those that supervisors left behind who were killed; only for who knows that nothing runs there."""
    for room in rooms():
        with contextlib.suppress(OSError):
            for name in os.listdir(room) if os.lstat(room).st_uid == os.geteuid() else ():
                if name.startswith(files_of(place)):
                    forget_files(f"{room}/{name}")


# -- logs --------------------------------------------------------------------------------------------------------------


def log_files(place: Place) -> list[str]:
    """Newest first."""
    return [place.logs + "/output.log"] + [f"{place.logs}/output.log.{number}" for number in range(1, LOG_FILES)]


def log_tail(place: Place, tail: int) -> Json:
    content, position = b"", [0, 0]
    for path in log_files(place):
        try:
            piece, stamp = read_file(path, 4 * LOG_BYTES)
        except FileNotFoundError:
            break
        position = position if content or position[0] else [stamp[0], len(piece)]
        content = piece + content
        if content.count(b"\n") > tail:
            break
    lines = content.decode(errors="replace").splitlines()
    return {"lines": lines[-tail:] if tail > 0 else [], "position": position}


def log_after(place: Place, position: Sequence[int]) -> Json:
    """What was written since: from the file that was read last, wherever it was rotated to, then from newer ones."""
    inode, offset = position
    found = [(path, os.lstat(path).st_ino) for path in reversed(log_files(place)) if os.path.exists(path)]
    known = [index for index, (_, number) in enumerate(found) if number == inode]
    content = b""
    for path, number in found[known[0] if known else 0 :]:
        begin = offset if number == inode else 0
        piece = read_from(path, begin)
        content, position = content + piece, [number, begin + len(piece)]
    return {"text": content.decode(errors="replace"), "position": list(position)}


def read_from(path: str, offset: int) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        file.seek(offset)
        return file.read(2 * LOG_BYTES)


class Log:
    """What the workload printed, in a bounded number of bounded files. A full disk loses lines, never the workload."""

    def __init__(self, place: Place) -> None:
        self.files = log_files(place)
        self.handle, self.size = -1, 0

    def write(self, content: bytes) -> None:
        with contextlib.suppress(OSError):
            if self.handle < 0:
                self._open()
            elif self.size + len(content) > LOG_BYTES:
                self._rotate()
            self.size += os.write(self.handle, content)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self.handle = os.open(self.files[0], flags, 0o600)
        self.size = os.fstat(self.handle).st_size

    def _rotate(self) -> None:
        os.close(self.handle)
        self.handle = -1
        for newer, older in reversed(list(zip(self.files, self.files[1:]))):  # noqa: B905 - not in Python 3.8
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, older)
        self._open()


# -- the supervisor ----------------------------------------------------------------------------------------------------


def search_path(release: Release) -> str:
    declared = dict(release.configuration_of.get("environment", []))
    found = declared.get("PATH")
    return found if isinstance(found, str) else os.environ.get("PATH", PATH)


def program(tree: str, word: str, path: str) -> str:
    """The file that the first word of a command names: one of the release, else one on PATH."""
    inside = os.path.realpath(os.path.join(tree, word.lstrip("/")))
    if inside.startswith(os.path.realpath(tree) + "/") and os.path.isfile(inside):
        if not os.access(inside, os.X_OK):
            raise Trouble("refused", f"{word[:120]} of the release is not executable")
        return inside
    found = on_path(word, path)
    if found is None:
        raise Trouble("refused", f"{word[:120]} is neither a file of the release nor a program on the target")
    return found


def on_path(word: str, path: str) -> str | None:
    """The program of this name, or the one at this absolute path."""
    places = [os.path.join(folder, word) for folder in path.split(":") if os.path.isabs(folder) and "/" not in word]
    for found in [word] if os.path.isabs(word) else places:
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None


def credentials(release: Release) -> tuple[int, int, str | None] | None:
    """User, group and the name to take supplementary groups from; None to stay who we are."""
    declared = release.configuration_of.get("user")
    if declared is None:
        return None
    if os.geteuid() != 0:
        raise Trouble("refused", f"user {declared[:40]}: only a root's supervisor can become another")
    user, _, group = declared.partition(":")
    try:
        number = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid if group else None
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        return entry.pw_uid, entry.pw_gid if number is None else number, entry.pw_name
    except KeyError:
        if user.isdigit() and group.isdigit():
            return int(user), int(group), None
        raise Trouble("refused", f"user {declared[:40]} is not known on the target") from None


def fit(place: Place, release: Release) -> None:
    """Whether it could be started here; Trouble says why not."""
    program(place.release(release.name) + "/tree", release.specification["command"][0], search_path(release))
    credentials(release)
    if release.files:
        room_in_memory()


def free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


class Run:
    """One release kept running: its process group now, and what came of those before.

    running -> stopping -> ended          told to stop
    running -> sweeping -> waiting | ended   ended by itself; what it left behind is ended first
    waiting -> running                    back-off is over
    """

    def __init__(self, place: Place, release: Release, key: str | None) -> None:
        self.place, self.release, self.key = place, release, key
        self.state = "waiting"
        self.leader: Process | None = None
        self.status: int | None = None  # of the leader that ended and is not reaped yet
        self.instances: list[str] = []
        self.exit_code: int | None = None
        self.started_ms: int | None = None
        self.began = self.wake = self.ended = 0.0
        self.delay, self.restarts, self.again = FIRST_DELAY, 0, True
        self.mark = f"{place.path}#{os.getpid()}-{next(_numbers)}"
        self.ports = self._ports()
        self.environment: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.folder = self._folder() if release.files else ""
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.rest = b""

    def _ports(self) -> dict[str, int]:
        """Declared ports and where they are: as declared, or any free one, which the workload is told."""
        return {
            str(port["container"]): port["host"] or free_port(port["address"])
            for port in self.release.configuration_of.get("ports", [])
        }

    def _folder(self) -> str:
        return "{}/{}{}".format(room_in_memory(), files_of(self.place), self.mark.rpartition("#")[2])

    @property
    def active(self) -> bool:
        return self.state != "ended"

    @property
    def tree(self) -> str:
        return self.place.release(self.release.name) + "/tree"

    def take(self, secrets: Mapping[str, str]) -> None:
        """All that it is given, for this start and those after it."""
        self.environment = self._surroundings(secrets)
        self.files = {str(file["name"]): secrets[secret_name(file["secret"])] for file in self.release.files}

    def _surroundings(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """Declared variables, PATH, and what tells the workload who it is; nothing is inherited."""
        found = {"PATH": search_path(self.release), MARK: self.mark}
        for name in ("installation", "target", "component", "slot"):
            found["HOLDFAST_" + name.upper()] = self.release.specification[name]
        found["HOLDFAST_ARTIFACT"] = self.release.specification["artifact"]
        found["HOLDFAST_CONFIGURATION"] = self.release.configuration
        found.update(("HOLDFAST_PORT_" + name, str(port)) for name, port in self.ports.items())
        for name, value in self.release.configuration_of.get("environment", []):
            found[name] = value if isinstance(value, str) else secrets[secret_name(value)]
        if self.folder:
            found[FILES] = self.folder
        return found

    def start(self) -> None:
        self.began, self.started_ms = time.monotonic(), time.time_ns() // 1_000_000
        try:
            if self.files:
                keep_files(self.folder, self.files, credentials(self.release))
            self.leader = self.fork(self.release.specification["command"], self.writer)
        except (OSError, Trouble):  # no process, or no room, is to be had: as if it had ended at once
            self.exit_code = 126
            self._rest(self.began) if self._restarts(126) else self._end()
            return
        self.status = self.exit_code = None
        self.instances = [*self.instances[-15:], self.leader.instance]
        self.state, self.again = "running", self._restarts(None)
        with contextlib.suppress(OSError):
            os.utime(self.place.release(self.release.name))  # the order in which releases are kept

    def fork(self, argv: Sequence[str], output: int) -> Process:
        """A child in a session of its own. Signals wait until it is another program, so that none of our handlers
        ever runs in it."""
        every = set(range(1, signal.NSIG))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, every)
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(argv, output, supervisor)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child = process(pid)
        assert child is not None  # nobody but us can reap it
        return child

    def _become(self, argv: Sequence[str], output: int, supervisor: int) -> NoReturn:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for source, place in ((null, 0), (output, 1), (output, 2)):
                os.dup2(source, place)
            os.umask(0o022)
            os.chdir(self.tree)
            self._limit()
            found = program(self.tree, argv[0], self.environment["PATH"])
            prctl(PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(125)
            for number in set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP}:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            os.execve(found, list(argv), self.environment)  # noqa: S606 - no shell is the point
        except BaseException as error:
            os.write(2, (f"holdfast: cannot start {argv[0][:120]}: {error}\n").encode(errors="replace"))
        finally:
            os._exit(127)

    def _limit(self) -> None:
        """What is declared and can be enforced, in the child; the user last, since it gives the right away."""
        declared = self.release.configuration_of
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if declared.get("memory"):
            resource.setrlimit(resource.RLIMIT_DATA, (declared["memory"], declared["memory"]))
        if declared.get("cpus"):
            usable = sorted(os.sched_getaffinity(0))
            first = int(hashlib.sha256(self.place.path.encode()).hexdigest(), 16)
            count = max(1, declared["cpus"] // 1000)
            os.sched_setaffinity(0, {usable[(first + step) % len(usable)] for step in range(count)})
        become = credentials(self.release)
        if become is not None:
            user, group, name = become
            os.setgroups([]) if name is None else os.initgroups(name, group)
            os.setgid(group)
            os.setuid(user)

    # .. its end ..

    def stop(self) -> None:
        self.again = False
        if self.state == "waiting":
            self._end()
        elif self.state in ("running", "sweeping"):
            self.state, self.wake = "stopping", time.monotonic() + self.release.grace
            self._signal(signal.SIGTERM)

    def left(self, status: int) -> None:
        """Its leader ended and is not reaped: while it is not, nobody else can bear its number."""
        self.status, self.exit_code = status, status
        if self.state == "running":
            self.again = self._restarts(status)
            self.state, self.wake = "sweeping", time.monotonic() + min(SWEEP_GRACE, self.release.grace)
            self._signal(signal.SIGTERM)

    def _restarts(self, status: int | None) -> bool:
        policy = self.release.configuration_of["restart"]
        return policy in ("always", "unless-stopped") or (policy == "on-failure" and status != 0)

    def others(self) -> list[Process]:
        """What runs of it beside its leader: its group, its session, and what left both but bears its mark."""
        assert self.leader is not None
        pid, me = self.leader.pid, os.getpid()
        return [
            found
            for found in processes()
            if found.lives
            and found.pid not in (pid, me)
            and (pid in (found.group, found.session) or (found.parent in (me, 1) and mark_of(found.pid) == self.mark))
        ]

    def _signal(self, number: signal.Signals) -> None:
        assert self.leader is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.leader.pid, number)
        for other in self.others():
            if other.group != self.leader.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other.pid, number)

    def tick(self, now: float) -> bool:
        """Go on with what is due; True when its state changed."""
        if self.state in ("stopping", "sweeping"):
            return self._sweep(now)
        if self.state == "waiting" and now >= self.wake:
            self.restarts += 1
            self.start()
            return True
        return False

    def _sweep(self, now: float) -> bool:
        """Wait for the last one, kill when the time is over, then reap the leader."""
        assert self.leader is not None
        if self.status is None or self.others():
            if now >= self.wake:
                self._signal(signal.SIGKILL)
                self.wake = now + 0.1
            return False
        os.waitpid(self.leader.pid, 0)
        self._rest(now) if self.again else self._end()
        return True

    def _rest(self, now: float) -> None:
        """Back off before the next start."""
        self.delay = FIRST_DELAY if now - self.began >= GOOD_RUN else self.delay
        self.state, self.wake = "waiting", now + self.delay
        self.delay = min(LONGEST_DELAY, 2 * self.delay)

    def _end(self) -> None:
        self.state, self.ended = "ended", time.monotonic()

    def close(self) -> None:
        if self.folder:
            with contextlib.suppress(OSError):
                forget_files(self.folder)
        os.close(self.reader)
        os.close(self.writer)
        self.reader = self.writer = -1

    def due(self, now: float) -> float | None:
        """When `tick` has something to do."""
        if self.state in ("stopping", "sweeping"):
            return self.wake if self.status is None else now + 0.01
        return self.wake if self.state == "waiting" else None

    def say(self) -> Json:
        return {
            "release": self.release.name,
            "artifact": self.release.artifact,
            "configuration": self.release.configuration,
            "instance": self.instances[-1] if self.instances else "unstarted:" + self.release.name,
            "instances": self.instances,
            "state": self.state,
            "again": self.again,
            "restarts": self.restarts,
            "exit_code": self.exit_code,
            "started_ms": self.started_ms,
            "key": self.key,
            "ports": self.ports,
        }


class Line(NamedTuple):
    """Somebody who gave an order and waits for the answer."""

    socket: socket.socket
    until: float

    def reply(self, body: Json) -> None:
        with contextlib.suppress(OSError):
            self.socket.setblocking(True)
            self.socket.settimeout(1)
            self.socket.sendall(json.dumps(body).encode() + b"\n")
        self.socket.close()

    def refuse(self, trouble: Trouble) -> None:
        self.reply({"error": {"code": trouble.code, "text": str(trouble), "missing": trouble.missing}})


class Start(NamedTuple):
    """A run that begins when those it replaces have ended."""

    run: Run
    replaced: list[Run]
    point: bool
    line: Line


class Probe(NamedTuple):
    """A health command on its way, in a group of its own."""

    child: Process
    line: Line


class Supervisor:
    """Keeps one placement's workload running until it is told otherwise. One thread, one loop, one at a time."""

    def __init__(self, place: Place, linger: float) -> None:
        self.place, self.linger = place, linger
        me = process(os.getpid())
        assert me is not None
        self.me, self.boot, self.version = me.instance, boot(), version()
        self.past = self._past()
        self.runs: list[Run] = []
        self.start: Start | None = None
        self.stops: list[tuple[list[Run], Line]] = []
        self.probes: list[Probe] = []
        self.secrets: dict[str, str] = {}
        self.log = Log(place)
        self.leaving = self.unwritten = False
        self.idle_since = time.monotonic()
        self.selector = selectors.DefaultSelector()
        self.ear = self._listen()
        self._hear_signals()

    def _past(self) -> list[Json]:
        """Runs of supervisors before this one; what they left running has been ended by now."""
        try:
            found = parse(read_file(self.place.state, 4 << 20)[0])["runs"]
            return [dict(run, state="ended", again=False) for run in found][-8:]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _listen(self) -> socket.socket:
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(self.place.supervisor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("socket")
        before = os.umask(0o177)
        ear.bind("socket")
        os.umask(before)
        os.chdir("/")
        ear.listen(16)
        ear.setblocking(False)
        self.selector.register(ear, selectors.EVENT_READ, lambda: self._accept())
        return ear

    def _hear_signals(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._bell = theirs
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._leave())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.selector.register(ours, selectors.EVENT_READ, lambda: self._hush(ours))

    def _hush(self, bell: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            bell.recv(4096)

    def _leave(self) -> None:
        self.leaving = True

    # .. the loop ..

    def serve(self) -> None:
        self.write()
        while not self._done():
            for key, _ in self.selector.select(self._pause()):
                key.data()
            if self.leaving:
                self._stop_all()
            if self._reap() | self._tick() | self.unwritten:
                self.write()
        self.write()

    def _done(self) -> bool:
        busy = self.start is not None or self.probes or any(run.active for run in self.runs)
        if busy:
            self.idle_since = time.monotonic()
        return not busy and (self.leaving or time.monotonic() - self.idle_since >= self.linger)

    def _pause(self) -> float:
        now = time.monotonic()
        due = [self.idle_since + self.linger] + [found for found in (run.due(now) for run in self.runs) if found]
        due += [probe.line.until for probe in self.probes] + [now + 1] * self.unwritten
        return max(0.0, min(min(due) - now, 60.0))

    def _stop_all(self) -> None:
        self._forgo_start()
        for run in self.runs:
            run.stop()

    def _forgo_start(self) -> None:
        """What waits to be started is not, since something else was ordered after it."""
        if self.start is not None:
            self.start.line.refuse(Trouble("unknown", "another order came after this one"))
            self.start.run.close()
            self.start = None

    def _reap(self) -> bool:
        """Whoever ended. A leader is only looked at: it is reaped with the last of its group."""
        changed = False
        for run in self.runs:
            if run.leader is not None and run.status is None and run.state in ("running", "stopping"):
                status = _peek(run.leader.pid)
                if status is not None:
                    run.left(status)
                    changed = True
        for probe in list(self.probes):
            status = _peek(probe.child.pid)
            if status is not None:
                self._end_probe(probe, {"exit_code": status})
        self._reap_adopted()
        return changed

    def _reap_adopted(self) -> None:
        """Orphans that the kernel gave to us. A leader in front of them only delays it."""
        with contextlib.suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None or found.si_pid in self._own():
                    return
                os.waitpid(found.si_pid, os.WNOHANG)

    def _own(self) -> set[int]:
        return {run.leader.pid for run in self.runs if run.leader is not None and run.active} | {
            probe.child.pid for probe in self.probes
        }

    def _tick(self) -> bool:
        now = time.monotonic()
        changed = [run.tick(now) for run in self.runs]
        for run in self.runs:
            if not run.active and run.reader >= 0:
                self._forget_output(run)
        for probe in list(self.probes):
            if now >= probe.line.until:
                self._end_probe(probe, {"exit_code": None})
        wrote = self._begin() | self._answer_stops()
        return any(changed) and not wrote

    def _begin(self) -> bool:
        """Start what waits for its predecessors to be gone; True when it did, and wrote so."""
        if self.start is None or any(run.active for run in self.start.replaced):
            return False
        start, self.start = self.start, None
        self._retire()
        self.runs.append(start.run)
        start.run.take(self.secrets)
        self.selector.register(start.run.reader, selectors.EVENT_READ, lambda: self._copy(start.run))
        start.run.start()
        if start.point:
            with contextlib.suppress(OSError):  # a full disk; whoever settles the release points again and says so
                self.place.point(start.run.release.name)
        self.write()
        start.line.reply({"answer": start.run.say()})
        return True

    def _retire(self) -> None:
        self.past = [*self.past, *(run.say() for run in self.runs if not run.active)][-8:]
        self.runs = [run for run in self.runs if run.active]

    def _answer_stops(self) -> bool:
        """Whoever is answered finds the state written: nothing is pending any more. True when anybody was."""
        done = [line for runs, line in self.stops if not any(run.active for run in runs)]
        self.stops = [(runs, line) for runs, line in self.stops if any(run.active for run in runs)]
        if done:
            self.write()
        for line in done:
            line.reply({"answer": {}})
        return bool(done)

    # .. output ..

    def _copy(self, run: Run) -> None:
        """Whole lines of one run after the other's; a line without end in pieces."""
        try:
            content = run.rest + os.read(run.reader, 1 << 16)
        except BlockingIOError:
            return
        whole, newline, rest = content.rpartition(b"\n")
        if len(rest) > LINE_BYTES:
            whole, newline, rest = content, b"\n", b""
        run.rest = rest
        if newline:
            self.log.write(whole + newline)

    def _forget_output(self, run: Run) -> None:
        self.selector.unregister(run.reader)
        for _ in range(64):  # what it printed last
            before = len(run.rest)
            self._copy(run)
            if len(run.rest) == before:
                break
        if run.rest:
            self.log.write(run.rest + b"\n")
        run.close()

    # .. orders ..

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            line, _ = self.ear.accept()
            line.setblocking(False)
            heard = bytearray()
            self.selector.register(line, selectors.EVENT_READ, lambda: self._hear(line, heard))

    def _hear(self, line: socket.socket, heard: bytearray) -> None:
        try:
            piece = line.recv(1 << 16)
        except OSError:
            piece = b""
        heard += piece
        if piece and not heard.endswith(b"\n") and len(heard) < REQUEST_BYTES:
            return
        self.selector.unregister(line)
        try:
            self._obey(json.loads(bytes(heard)), line)
        except Trouble as trouble:
            Line(line, 0).refuse(trouble)
        except OSError as error:
            Line(line, 0).refuse(Trouble("refused", str(error)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            Line(line, 0).refuse(Trouble("invalid", f"not an order: {type(error).__name__}"))

    def _obey(self, order: Json, line: socket.socket) -> None:
        self.idle_since = time.monotonic()
        if self.leaving and order["do"] != "status":
            raise Trouble("unreachable", "the supervisor is leaving")
        orders = {"status": self._status, "start": self._start, "stop": self._stop, "check": self._check}
        orders[order["do"]](order, Line(line, time.monotonic() + float(order.get("timeout", 60))))

    def _status(self, order: Json, line: Line) -> None:
        line.reply({"answer": self.say()})

    def _start(self, order: Json, line: Line) -> None:
        """Start a release (None: what `current` names): in place of all that runs, or beside it. Everything that can
        be refused is refused before anything is stopped."""
        name = order["release"] or self.place.serving()
        if name is None:
            raise Trouble("refused", f"{self.place.current} names no release")
        release = load_release(self.place, name)
        secrets = dict(self.secrets, **order.get("secrets", {}))
        missing = [secret for secret in release.secrets if secret not in secrets]
        if missing:
            raise Trouble("secrets", "the release needs secrets that were not handed over", missing)
        fit(self.place, release)
        self.secrets = secrets
        self._forgo_start()
        run = Run(self.place, release, order.get("key"))
        replaced = [found for found in self.runs if found.active and (order["replace"] or found.release.name == name)]
        for found in replaced:
            found.stop()
        self.start = Start(run, replaced, order["replace"], line)
        self.write()

    def _stop(self, order: Json, line: Line) -> None:
        """Stop the runs of these releases, or all."""
        wanted = order.get("releases")
        runs = [run for run in self.runs if wanted is None or run.release.name in wanted]
        if self.start is not None and (wanted is None or self.start.run.release.name in wanted):
            self._forgo_start()
        for run in runs:
            run.stop()
        self.stops.append((runs, line))
        self.write()

    def _check(self, order: Json, line: Line) -> None:
        """Run a health command as the workload would, and tell how it ended."""
        runs = [run for run in self.runs if run.state == "running" and order["instance"] in run.instances]
        if not runs:
            raise Trouble("unreachable", "the instance does not run")
        if len(self.probes) >= 8:
            raise Trouble("busy", "eight health commands are still on their way")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            child = runs[-1].fork([str(word) for word in order["argv"]], null)
        finally:
            os.close(null)
        self.probes.append(Probe(child, line))

    def _end_probe(self, probe: Probe, answer: Json) -> None:
        """Its whole group, while its leader's number is still its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(probe.child.pid, signal.SIGKILL)
        os.waitpid(probe.child.pid, 0)
        self.probes.remove(probe)
        probe.line.reply({"answer": answer})

    # .. what it says ..

    def say(self) -> Json:
        waiting = self.start is not None or bool(self.stops)
        return {
            "format": FORMAT,
            "supervisor": self.me,
            "boot": self.boot,
            "version": self.version,
            "pending": waiting,
            "runs": self.past + [run.say() for run in self.runs],
        }

    def write(self) -> None:
        """Not for the disk but for whoever looks; a full disk does not end the workload, and is tried again."""
        try:
            write_file(self.place.state, serialise(self.say()), 0o600, durable=False)
            self.unwritten = False
        except OSError:
            self.unwritten = True


def _peek(pid: int) -> int | None:
    """How a child ended, which stays unreaped; as a shell words it when a signal ended it."""
    with contextlib.suppress(ChildProcessError):
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status
    return None


def supervise(path: str, linger: float) -> int:
    """Become a daemon and supervise; whoever called gets 0 when it listens, else one line that says why not."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as file:
            said = file.read()
        if said == "ready":
            return 0
        sys.stderr.write((said or "the supervisor ended before it listened") + "\n")
        return 1
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(reader)
    try:
        _supervise(Place(os.path.realpath(path)), linger, writer)
    except BaseException as error:
        import traceback

        with contextlib.suppress(OSError):
            write_file(path + "/supervisor/trouble.log", traceback.format_exc().encode(), 0o600, durable=False)
            os.write(writer, str(error).encode())
    finally:
        os._exit(0)


def _supervise(place: Place, linger: float, writer: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")
    with alone(place):
        me = process(os.getpid())
        assert me is not None
        body = serialise({"format": FORMAT, "boot": boot(), "supervisor": me.instance})
        write_file(place.supervisor + "/pid", body, 0o600, durable=False)
        end_orphans(place.path)
        forget_all_files(place)
        clean_folder(place.supervisor)
        prctl(SUBREAPER, 1)
        supervisor = Supervisor(place, linger)
        os.write(writer, b"ready")
        os.close(writer)
        supervisor.serve()


# -- hands and doors ---------------------------------------------------------------------------------------------------


def session(holder: Session) -> int:
    """Requests on standard input, one JSON object a line; answers on standard output, in order."""
    try:
        for line in sys.stdin:
            try:
                answer = holder.answer(json.loads(line))
            except ValueError as error:
                answer = {"error": {"code": "invalid", "text": f"not JSON: {error}", "missing": []}}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        holder.close()
    return 0


class Desk:
    """Requests of several holders at once, as another machine sends them: each with an id, answered as it is done.
    `of` names the holder. When the line ends, or nothing is heard of who holds something, what is being changed is
    changed to its end, and only then is everything let go."""

    def __init__(self, new: Callable[[Eyes], Session] = Session, eyes: Eyes | None = None) -> None:
        import threading  # more than a supervisor needs

        self.turn, self.changed = threading.Lock(), threading.Condition()
        self.new, self.eyes = new, eyes or Eyes()
        self.holders: dict[str, Session] = {}
        self.changing: dict[str, int] = {}
        self.closing: dict[str, Json] = {}  # holder -> the request that is answered when everything is let go
        self.heard = time.monotonic()

    def serve(self) -> None:
        self._apart(self._miss)
        try:
            for line in sys.stdin.buffer:
                self.heard = time.monotonic()
                self._take(json.loads(line))
        except (EOFError, ValueError, KeyError, TypeError, AttributeError):
            pass
        self._leave()

    def _take(self, request: Json) -> None:
        do, name = str(request["do"]), str(request.get("of"))
        body = self._body(int(request["bytes"])) if "bytes" in request else None
        if do == "close":
            self._close(name, request)
        elif "id" in request and name not in self.closing:
            holder = self.holders.setdefault(name, self.new(self.eyes))
            if body is not None:
                request["body"] = body
            if do not in HARMLESS:
                with self.changed:
                    self.changing[name] = self.changing.get(name, 0) + 1
            if do in holder.at_once:
                self._answer(holder, request)
            else:
                self._apart(lambda: self._answer(holder, request))

    def _body(self, size: int) -> bytes:
        found = sys.stdin.buffer.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def _apart(self, work: Callable[[], None]) -> None:
        import threading

        threading.Thread(target=work, daemon=True).start()

    def _answer(self, holder: Session, request: Json) -> None:
        name, do = str(request.get("of")), str(request["do"])
        try:
            found = holder.answer(request)
        except Exception as error:  # a fault of ours; nobody may wait for an answer that never comes
            found = {"error": {"code": "unknown", "text": f"{type(error).__name__}: {error}", "missing": []}}
        self._say(request, found)
        if do not in HARMLESS:
            with self.changed:
                self.changing[name] -= 1
                self._let_go(name)
                self.changed.notify_all()

    def _say(self, request: Json, found: Json) -> None:
        with self.turn, contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(json.dumps({"id": request["id"], **found}).encode() + b"\n")
            sys.stdout.buffer.flush()

    def _close(self, name: str, request: Json) -> None:
        with self.changed:
            self.closing[name] = request
            self._let_go(name)

    def _let_go(self, name: str) -> None:
        if name in self.closing and not self.changing.get(name):
            request = self.closing.pop(name)
            self.changing.pop(name, None)
            holder = self.holders.pop(name, None)
            if holder is not None:
                holder.close()
            self._say(request, {"answer": {}})

    def _miss(self) -> None:
        """A machine that is gone without a word must not keep others out."""
        while True:
            time.sleep(PATIENCE / 10)
            holding = any(holder.locks for holder in list(self.holders.values()))
            if holding and time.monotonic() - self.heard > PATIENCE:
                self._leave()

    def _leave(self) -> NoReturn:
        with self.changed:
            self.changed.wait_for(lambda: not any(self.changing.values()), LONGEST_CHANGE)
            for holder in list(self.holders.values()):
                holder.close()
            os._exit(0)


HARMLESS = (*LOOKING, "awaited", "ran", "gone")


def ctl(path: str, verb: str) -> int:
    """By hand: `status`, `stop`, `start` and `restart` of one placement; the last two run what `current` names. What
    needs secrets can be started only by who can resolve them."""
    place = Place(os.path.realpath(path))
    if not os.path.isdir(place.releases):
        raise Trouble("invalid", f"{path} is not the directory of a placement")
    if verb == "status":
        body = parse(read_file(place.state, 4 << 20)[0]) if os.path.exists(place.state) else {}
        print(json.dumps({"current": place.serving(), "lives": supervisor_of(place) is not None, **body}, indent=1))
        return 0
    with held(place):
        if verb != "stop":
            ensure(place, sys.executable)
            print(converse(place, {"do": "start", "release": None, "replace": True}, 120)["instance"])
        elif supervisor_of(place) is not None:
            converse(place, {"do": "stop"}, 120)
    return 0


def main(arguments: Sequence[str]) -> int:
    if sys.version_info < (3, 8):  # noqa: UP036 - this file runs on hosts with any Python
        sys.stderr.write("Python 3.8 or newer is needed, this is {}.{}\n".format(*sys.version_info[:2]))
        return 1
    try:
        if len(arguments) in (2, 3) and arguments[0] == "supervise":
            return supervise(arguments[1], float(arguments[2]) if len(arguments) == 3 else LINGER)
        if len(arguments) == 3 and arguments[0] == "ctl" and arguments[2] in ("status", "start", "stop", "restart"):
            return ctl(arguments[1], arguments[2])
        if list(arguments) == ["session"]:
            return session(Session())
        if list(arguments) == ["serve"]:
            Desk().serve()
    except Trouble as trouble:
        sys.stderr.write(f"{trouble}\n")
        return 1
    sys.stderr.write("usage: host.py session | serve | supervise DIRECTORY | ctl DIRECTORY status|start|stop|restart\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
