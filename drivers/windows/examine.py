"""What a Windows host lacks before anything is changed there: rights, PowerShell, a root of its own, room, the time.
Only asks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from desired_state.model import Target
from drivers import diagnosis
from drivers.contract import Diagnosis, Look, Tools
from drivers.diagnosis import missing, ok, unknown
from drivers.errors import DriverError, Refused
from drivers.windows.connection import Connection
from drivers.windows.line import Gaze
from drivers.winrm.connection import WindowsReach

OLDEST: Final = (5, 1)


async def examine(gaze: Gaze, connection: Connection, one: Look, tools: Tools) -> tuple[Diagnosis, ...]:
    """Everything about one target. When its host cannot be asked, only that."""
    before = tools.now()
    facts = await asked(gaze, connection, connection.root)
    if isinstance(facts, Diagnosis):
        return (facts,)
    return (
        powershell(facts),
        _account(facts),
        *place(facts, connection.root, one.target, tools),
        clock(facts, before, tools),
    )


async def asked(gaze: Gaze, reach: WindowsReach, root: str, programs: Sequence[str] = ()) -> dict[str, Any] | Diagnosis:
    """What the host tells of itself, of the root, and of programs that have to be there; or why it does not."""
    try:
        return await gaze.see("facts", {"root": root}, programs=list(programs))
    except Refused as error:
        return missing("host", str(error), _remedy(error.code))
    except DriverError as error:
        return unknown("host", str(error), f"look whether its {reach.via} listens, and a firewall lets us in")


def _remedy(code: str) -> str | None:
    return {
        "EXTRA_MISSING": "install it into the environment of the daemon",
        "NOT_ADMITTED": "look at user, password and auth, and at the accounts that the host admits",
        "HOST_NOT_BELIEVED": "name the file of its authority in `ca`, and the host as its certificate does",
        "NO_POWERSHELL": "Windows PowerShell 5.1 has to be there, as powershell.exe",
    }.get(code)


def clock(facts: dict[str, Any], before: datetime, tools: Tools) -> Diagnosis:
    return diagnosis.clock(datetime.fromtimestamp(facts["time_ms"] / 1000, UTC), before, tools.now())


def powershell(facts: dict[str, Any]) -> Diagnosis:
    said = f"PowerShell {facts['powershell']} on {facts['windows']}"
    version = tuple(int(part) for part in facts["powershell"].split(".")[:2])
    if version < OLDEST:
        return missing("powershell", f"{said} is too old", "install Windows Management Framework 5.1 there")
    return ok("powershell", said)


def _account(facts: dict[str, Any]) -> Diagnosis:
    if facts["administrator"]:
        return ok("account", f"{facts['user']} is an administrator there")
    remedy = "act as a member of the group Administrators: services are made by nobody else"
    return missing("account", f"{facts['user']} is no administrator there", remedy)


def place(facts: dict[str, Any], root: str, target: Target, tools: Tools) -> tuple[Diagnosis, Diagnosis]:
    return _root(facts, root, target, tools), _disk(facts, root)


def _root(facts: dict[str, Any], path: str, target: Target, tools: Tools) -> Diagnosis:
    owner = facts["owner"]
    if owner is None:
        return ok("root", f"{path} is ours to take" if facts["root"] else f"{path} can be made")
    if "problem" in owner:
        return missing("root", owner["problem"], "declare another `root`, or move what is there")
    if (owner["installation"], owner["target"]) == (str(tools.installation), str(target.id)):
        return ok("root", f"{path} is this target's")
    said = f"{path} belongs to target {owner['target']} of installation {owner['installation']}"
    return missing("root", said, "declare another `root`: no two targets share one")


def _disk(facts: dict[str, Any], root: str) -> Diagnosis:
    if facts["disk"] is None:
        return missing("disk", f"there is no drive {root[:2]}", "declare another `root`")
    return diagnosis.disk(root[:2], free=facts["disk"]["free"], size=facts["disk"]["size"])
