"""The host's side of the script driver where the host is a Windows: the same requests, answered by way of its helper.

The helper reads and writes files, holds the lock and runs programs; what was asked for, and how it ended, is judged
here by the words of `drivers.script.host`. An ordered command goes on without us, under a lock of its own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

import anyio

from drivers import probes
from drivers.errors import DriverError, InvalidAction, OutcomeUnknown, Unreachable
from drivers.process.host import ERRAND_ENDS
from drivers.process.line import Raw
from drivers.script import host
from drivers.windows import render
from drivers.windows.eyes import ABSENT
from drivers.windows.line import Gaze, Grip

POLL: Final = 5.0  # seconds of one question whether a command has ended
PATIENCE: Final = 0.9  # of a check's time-out, after which the host itself gives up


def way(gaze: Gaze, timeout: timedelta) -> probes.Connected:
    return partial(gaze.connected, within=PATIENCE * timeout.total_seconds())


class Scripts:
    """Those who look."""

    def __init__(self, gaze: Gaze) -> None:
        self.gaze = gaze

    async def see(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return await self.wait(do, where, **fields)

    async def wait(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        match do:
            case "look":
                return {"targets": [await self._target(ask) for ask in fields["targets"]]}
            case "standing":
                return await self._standing(where, await self._place(where))
            case "ask":
                return await self._ask(where, fields["order"])
        raise InvalidAction(f"{do} is not asked of a Windows host")

    async def _target(self, ask: Raw) -> Raw:
        raw = (await self.gaze.see("look", {}, targets=[_target(ask)]))["targets"][0]
        if "unseen" in raw:
            return dict(raw)
        try:
            return {"standings": [await self._standing({**ask, **_named(one)}, one) for one in raw["places"]]}
        except DriverError as error:
            return {"unseen": str(error)}

    async def _place(self, where: Raw) -> Raw:
        raw = (await self.gaze.see("look", {}, targets=[_target(where)]))["targets"][0]
        if "unseen" in raw:
            raise Unreachable(str(raw["unseen"]))
        found: Raw = next((one for one in raw["places"] if one["folder"] == _folder(where)), ABSENT)
        return found

    async def _standing(self, where: Raw, place: Raw) -> dict[str, Any]:
        notes = _notes(place)
        ended = _ended(notes, place)
        told = await self._version(where) if notes or place["sticker"] is not None else None
        now = None if told is None else host.workload(told, notes, ended)
        serving = None if now is None else [now["artifact"], now["configuration"]]
        contents = [[note["artifact"], note["configuration"]] for note in notes[0 if ended else 1 :]]
        return {
            "component": where["component"],
            "slot": where["slot"],
            "sticker": place["sticker"],
            "workload": now,
            "kept": [content for content in contents if content != serving],
            "debris": [],
            "fence": place["fence"],
            "ended": ended,
            "notes": notes,
        }

    async def _version(self, where: Raw) -> dict[str, Any] | None:
        argv = where["version"]
        answer = await self._run(where, argv, "version", where["inputs"], "", where["within"])
        if answer["exit_code"] != 0:
            raise Unreachable(f"{argv[0][-80:]} {answer['why']}, so what stands cannot be told")
        if not answer["output"].strip():
            return None
        try:
            if answer["cut"]:
                raise ValueError(f"more than {host.OUTPUT} bytes")
            return host.told(json.loads(answer["output"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreachable(f"{argv[0][-80:]} did not print what was expected: {str(error)[:120]}") from None

    async def _ask(self, where: Raw, order: Raw) -> dict[str, Any]:
        seconds = float(order["timeout"])
        answer = await self._run(where, order["argv"], "health", order["inputs"], "", seconds)
        return {"exit_code": answer["exit_code"]}

    async def _run(
        self, where: Raw, argv: Sequence[str], action: str, inputs: Raw, stdin: str, within: float
    ) -> dict[str, Any]:
        command = command_of(where, argv, action, inputs, stdin, within)
        asked = {"root": where["root"], "folder": _folder(where), "release": None, "command": command}
        return await self.gaze.wait("ask", asked, within=within)


class HeldScripts(Scripts):
    """One who acts."""

    def __init__(self, gaze: Gaze, grip: Grip) -> None:
        super().__init__(gaze)
        self._grip = grip
        self._orders: dict[str, tuple[Raw, float]] = {}  # token -> where, and until when it is waited for

    async def __call__(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        place = _place(where)
        match do:
            case "hold":
                return await self._grip("hold", {**place, "fence": where["fence"]})
            case "wear":
                return await self._write(place, "sticker.json", fields["content"])
            case "bare":
                return await self._write(place, "sticker.json", None)
            case "order":
                return await self._order(where, fields["order"])
            case "collect":
                notes = _notes(await self._place(where))
                return await self._record(place, _collected(notes, int(fields["keep"]), fields.get("spare")))
            case "drop":
                first, *past = _notes(await self._place(where))
                past = [note for note in past if note["instance"] != fields["instance"]]
                return await self._record(place, [first, *past])
            case "clear":
                await self._write(place, "record.json", None)
                return await self._write(place, "result.json", None)
        raise InvalidAction(f"{do} is not asked of a Windows host")

    async def wait(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return await self._awaited(fields["token"]) if do == "awaited" else await super().wait(do, where, **fields)

    async def _order(self, where: Raw, order: Raw) -> dict[str, Any]:
        """Begin a command, and do not wait for its end. With a note, that is what stands when it has ended well."""
        token, note, within = uuid.uuid4().hex, order.get("note"), float(order["within"])
        if note is not None:
            seen = await self._place(where)
            past = _notes(seen)
            past = past if _ended(past, seen) else past[1:]  # what did not end well is no way back
            await self._record(_place(where), [{**note, "token": token}, *past])
        stdin = json.dumps(order["input"])
        command = command_of(where, order["argv"], order["action"], order["inputs"], stdin, within)
        self._orders[token] = where, anyio.current_time() + within + ERRAND_ENDS
        return await self._grip("order", {**_place(where), "token": token, "command": command})

    async def _awaited(self, token: str) -> dict[str, Any]:
        where, until = self._orders.pop(token)
        while anyio.current_time() < until:
            asked = {"root": where["root"], "folder": _folder(where), "token": token}
            found = (await self.gaze.wait("awaited", asked, within=POLL))["result"]
            if found is not None:
                return dict(json.loads(found))
        raise OutcomeUnknown("nobody tells how the command ended; what it did is to be looked at")

    async def _record(self, place: Raw, notes: Sequence[Raw]) -> dict[str, Any]:
        return await self._write(place, "record.json", json.dumps({"notes": list(notes)}))

    async def _write(self, place: Raw, file: str, content: str | None) -> dict[str, Any]:
        return await self._grip("write", {**place, "file": file, "content": content})


def command_of(where: Raw, argv: Sequence[str], action: str, inputs: Raw, stdin: str, within: float) -> dict[str, Any]:
    """One program, its words, and all that it finds in its environment beside what Windows itself needs there."""
    names = {"ACTION": action, "INSTALLATION": where["installation"], "TARGET": where["target"]}
    names |= {"COMPONENT": where["component"], "SLOT": where["slot"]}
    names |= {"DIRECTORY": f"{where['root']}\\{_folder(where)}"}
    environment = [*inputs.items(), *((f"HOLDFAST_{name}", value) for name, value in names.items())]
    return {
        "program": argv[0],
        "arguments": render.quoted(argv[1:]),
        "environment": [list(pair) for pair in environment],
        "stdin": stdin,
        "within": within,
    }


def _collected(notes: Sequence[Raw], keep: int, spare: Sequence[str] | None) -> list[Raw]:
    """Neither forgotten are the last one, nor the `keep` before it, nor `spare`."""
    seen: list[list[str]] = []
    kept: list[Raw] = []
    for note in notes:
        content = [note["artifact"], note["configuration"]]
        if content not in seen:
            if len(seen) <= keep or content == spare:
                kept.append(note)
            seen.append(content)
    return kept


def _notes(place: Raw) -> list[dict[str, Any]]:
    try:
        return [] if place["record"] is None else list(json.loads(place["record"])["notes"])
    except (ValueError, KeyError, TypeError):
        raise Unreachable("the record of what was asked for cannot be read") from None


def _ended(notes: Sequence[Raw], place: Raw) -> bool:
    """Whether what was asked for last was done."""
    if not notes or place["result"] is None:
        return False
    found = json.loads(place["result"])
    return bool((found["token"], found["exit_code"]) == (notes[0]["token"], 0))


def _target(where: Raw) -> dict[str, Any]:
    services = render.prefix(where["installation"], where["target"])
    return {**{name: where[name] for name in ("root", "installation", "target")}, "services": services}


def _place(where: Raw) -> dict[str, Any]:
    return {**{name: where[name] for name in ("root", "installation", "target")}, "folder": _folder(where)}


def _folder(where: Raw) -> str:
    return str(where["component"]) if where["slot"] == "live" else f"{where['component']}.{where['slot']}"


def _named(place: Raw) -> dict[str, str]:
    component, _, slot = place["folder"].partition(".")
    return {"component": component, "slot": slot or "live"}
