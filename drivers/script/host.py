"""The host's side of the script driver: somebody's commands are run, and what was asked of them is recorded.

Stickers, journal and lock are those of `drivers.process.host`; in the placement's directory lie, beside them:

    record.json     what was asked for, newest first, each with its key and as which instance
    result.json     how the command ended that was asked for last; without it, nobody knows

A command is run by a runner of its own, which holds the placement's lock until the command has ended and writes down
how, whatever becomes of us. The command itself does not get the lock, so that nothing it leaves running holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from drivers.process import host
from drivers.process.host import Claim, Place, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from drivers.process.host import Json, Listeners

OUTPUT = 64 << 10  # bytes of a command's output that are read
STATES = ("running", "starting", "restarting", "stopped")


def surroundings(place: Place, claim: Claim, ask: Mapping[str, Any], action: str) -> dict[str, str]:
    """All that a command finds in its environment."""
    component, _, slot = os.path.basename(place.path).partition(".")
    found = {"PATH": host.PATH, **{str(name): str(value) for name, value in ask.get("inputs", {}).items()}}
    names = {"ACTION": action, "INSTALLATION": claim.installation, "TARGET": claim.target, "COMPONENT": component}
    names.update(SLOT=slot or "live", DIRECTORY=place.path)
    found.update(("HOLDFAST_" + name, value) for name, value in names.items())
    return found


def ask_version(place: Place, claim: Claim, ask: Mapping[str, Any]) -> Json | None:
    """What the version command says stands; None for nothing. Trouble where it cannot tell."""
    argv = [str(word) for word in ask["version"]]
    code, output = _run(argv, place, surroundings(place, claim, ask, "version"), float(ask["within"]))
    if code != 0:
        raise Trouble("unreachable", f"{argv[0][-80:]} {_ending(code)}, so what stands cannot be told")
    if not output.strip():
        return None
    try:
        return told(json.loads(output.decode()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Trouble("unreachable", f"{argv[0][-80:]} did not print what was expected: {str(error)[:120]}") from None


def told(said: Any) -> Json | None:
    """What a version command printed, judged."""
    if said is None:
        return None
    artifact, state = str(said["artifact"]).rpartition("@")[2], said.get("state", "running")
    configuration, started = said.get("configuration"), said.get("started_at")
    if not host.DIGEST.fullmatch(artifact) or not (configuration is None or host.DIGEST.fullmatch(configuration)):
        raise ValueError("a digest is sha256: and 64 hexadecimal digits")
    if state not in STATES:
        raise ValueError(f"state is one of {', '.join(STATES)}")
    return {
        "artifact": artifact,
        "configuration": configuration,
        "state": state,
        "instance": None if said.get("instance") is None else str(said["instance"])[:200],
        "started_ms": None if started is None else int(float(started) * 1000),
        "exit_code": None if said.get("exit_code") is None else int(said["exit_code"]),
        "restarts": int(said.get("restarts", 0)),
    }


def _run(argv: Sequence[str], place: Place, environment: Mapping[str, str], within: float) -> tuple[int | None, bytes]:
    """A command that only tells; None when its time was over."""
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        child = subprocess.Popen(
            argv, cwd=place.path, env=environment, stdin=null, stdout=pipe, stderr=null, start_new_session=True
        )
    except OSError as error:
        raise Trouble("unreachable", f"{argv[0][-80:]} cannot be run: {error.strerror or error}") from None
    try:
        output, _ = child.communicate(timeout=within)
        code: int | None = child.returncode if child.returncode >= 0 else 128 - child.returncode
    except subprocess.TimeoutExpired:
        code, output = None, b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        if child.stdout is not None:
            child.stdout.close()
        child.wait()
    if len(output) > OUTPUT:
        raise Trouble("unreachable", f"{argv[0][-80:]} printed more than {OUTPUT} bytes")
    return code, output


def _ending(code: int | None) -> str:
    return "did not answer in time" if code is None else f"ended with exit code {code}"


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


# -- looking -----------------------------------------------------------------------------------------------------------


class Eyes(host.Eyes):
    """What stands is what the version command tells, held against what was asked for."""

    def _listened(self, claim: Claim, name: str, ask: Mapping[str, Any], table: Callable[[], Listeners]) -> Json:
        component, _, slot = name.partition(".")
        return self.seen(claim, claim.place(component, slot or "live"), ask)

    def seen(self, claim: Claim, place: Place, ask: Mapping[str, Any]) -> Json:
        component, _, slot = os.path.basename(place.path).partition(".")
        notes, ended = self.notes(place), self._ended(place)
        made = bool(notes) or os.path.lexists(place.sticker)
        found = ask_version(place, claim, ask) if made else None
        now = None if found is None else workload(found, notes, ended)
        serving = None if now is None else [now["artifact"], now["configuration"]]
        contents = [[note["artifact"], note["configuration"]] for note in notes[0 if ended else 1 :]]
        return {
            "component": component,
            "slot": slot or "live",
            "sticker": self._sticker(place),
            "workload": now,
            "kept": [content for content in contents if content != serving],
            "debris": [],
            "fence": self.fence(place),
        }

    def notes(self, place: Place) -> list[Json]:
        try:
            body = self._read(place.path + "/record.json", host.parse)
            return [] if body is None else list(body["notes"])
        except (ValueError, KeyError, TypeError) as error:
            raise Trouble("refused", f"{place.path}/record.json cannot be read: {error}") from None

    def _ended(self, place: Place) -> bool:
        """Whether what was asked for last was done."""
        notes = self.notes(place)
        try:
            found = self._read(place.path + "/result.json", host.parse)
        except ValueError:
            found = None
        return bool(notes and found) and (found["token"], found["exit_code"]) == (notes[0]["token"], 0)


def workload(found: Json, notes: Sequence[Json], ended: bool) -> Json:
    """What stands, with the configuration that was recorded for it where nothing speaks against that."""
    named = [note for note in notes if note["artifact"] == found["artifact"]]
    named = [note for note in named if found["configuration"] in (None, note["configuration"])]
    note = named[0] if named else None
    differences = []
    if note is None:
        differences.append("artifact: found one that was not asked for")
    if notes and not ended:
        differences.append("change: found begun and not known to have ended well")
    return {
        **found,
        "configuration": found["configuration"] or (None if differences or note is None else note["configuration"]),
        "instance": found["instance"] or (note["instance"] if note else found["artifact"][:19]),
        "instances": [note["instance"]] if note else [],
        "key": note["key"] if note else None,
        "differences": differences,
    }


# -- requests of the driver --------------------------------------------------------------------------------------------


class Session(host.Session):
    eyes: Eyes
    at_once = ()  # a look runs commands

    def __init__(self, eyes: Eyes | None = None) -> None:
        super().__init__(eyes or Eyes())

    def standing(self, request: Mapping[str, Any]) -> Json:
        claim = Claim.of(request)
        claim.check(claim.read())
        found = self.eyes.seen(claim, claim.place(str(request["component"]), str(request["slot"])), request)
        place = self._named(request)
        return {**found, "ended": self.eyes._ended(place), "notes": self.eyes.notes(place)}

    def examine(self, request: Mapping[str, Any]) -> Json:
        """What a plain host tells, and which of the commands are no programs that can be run here."""
        lacking = [path for path in map(str, request["programs"]) if not _is_program(path)]
        return {**super().examine(request), "lacking": lacking}

    def _named(self, request: Mapping[str, Any]) -> Place:
        return Claim.of(request).place(str(request["component"]), str(request["slot"]))

    def order(self, request: Mapping[str, Any]) -> Json:
        """Begin a command, and do not wait for its end. With a note, that is what stands when it has ended well."""
        place, order = self._held(request), request["order"]
        note, token = order.get("note"), os.urandom(8).hex()
        if note is not None:
            past = self.eyes.notes(place)
            past = past if self.eyes._ended(place) else past[1:]  # what did not end well is no way back
            self._record(place, [{**note, "token": token}, *past])
        ask = {
            "argv": [str(word) for word in order["argv"]],
            "cwd": place.path,
            "env": surroundings(place, Claim.of(request), order, str(order["action"])),
            "stdin": json.dumps(order["input"]),
            "within": float(order["within"]),
            "grace": 0.0,
            "log": place.logs + "/output.log",
            "token": token,
            "result": place.path + "/result.json" if note is not None else "",
        }
        return {"token": self._begin(ask, self.locks[place.path])}

    def awaited(self, request: Mapping[str, Any]) -> Json:
        return self.ran(request)

    def collect(self, request: Mapping[str, Any]) -> Json:
        """Forget what is neither the last one, nor among the `keep` before it, nor `spare`."""
        place = self._held(request)
        seen: list[list[str]] = []
        kept: list[Json] = []
        for note in self.eyes.notes(place):
            content = [note["artifact"], note["configuration"]]
            if content in seen:
                continue
            if len(seen) <= int(request["keep"]) or content == request.get("spare"):
                kept.append(note)
            seen.append(content)
        self._record(place, kept)
        return {}

    def drop(self, request: Mapping[str, Any]) -> Json:
        """Forget one that was asked for, and is not what was asked for last."""
        place = self._held(request)
        first, *past = self.eyes.notes(place)
        self._record(place, [first, *(note for note in past if note["instance"] != request["instance"])])
        return {}

    def clear(self, request: Mapping[str, Any]) -> Json:
        place = self._held(request)
        for path in (place.path + "/record.json", place.path + "/result.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return {}

    def ask(self, request: Mapping[str, Any]) -> Json:
        """Run a command that asks how the workload is."""
        place, order = self._named(request), request["order"]
        environment = surroundings(place, Claim.of(request), order, "health")
        code, _ = _run([str(word) for word in order["argv"]], place, environment, float(order["timeout"]))
        return {"exit_code": code}

    def _record(self, place: Place, notes: Sequence[Json]) -> None:
        host.write_file(
            place.path + "/record.json", host.serialise({"format": host.FORMAT, "notes": list(notes)}), 0o600
        )


def main(arguments: Sequence[str]) -> int:
    """The requests of another machine, or those on standard input one after the other."""
    if list(arguments) == ["session"]:
        return host.session(Session())
    if list(arguments) == ["serve"]:
        eyes = Eyes()
        host.Desk(lambda _: Session(eyes), eyes).serve()
    sys.stderr.write("usage: holdfast.py session | serve\n")
    return 2
