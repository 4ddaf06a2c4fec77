"""What a host lacks before commands are run there: it answers, a root of its own, room, the time, and the commands
themselves. Only asks."""

from __future__ import annotations

from datetime import UTC, datetime

from desired_state.model import Target
from drivers import diagnosis
from drivers.contract import Diagnosis, Tools
from drivers.diagnosis import missing, ok, unknown
from drivers.errors import DriverError
from drivers.process import examine as plain
from drivers.process.line import Sees
from drivers.script.connection import Connection
from drivers.windows import examine as windows
from drivers.windows.line import Gaze


async def examine(line: Sees, connection: Connection, target: Target, tools: Tools) -> tuple[Diagnosis, ...]:
    where = {"root": connection.root, "installation": str(tools.installation), "target": str(target.id)}
    before = tools.now()
    try:
        fields = {"python": connection.python, "programs": _programs(connection), "sandbox": connection.hooks}
        facts = await line.see("examine", where, **fields)
    except DriverError as error:
        return (unknown("host", str(error)),)
    after = tools.now()
    return (
        plain.root(facts, where),
        diagnosis.disk(connection.root, **facts["disk"]),
        diagnosis.clock(datetime.fromtimestamp(facts["time"], UTC), before, after),
        *plain.hooks(connection.hooks, facts["sandbox"]),
        *_commands(connection, facts["lacking"]),
    )


async def examine_windows(gaze: Gaze, connection: Connection, target: Target, tools: Tools) -> tuple[Diagnosis, ...]:
    """The same of a Windows host. No administrator is needed there: what a command may do is its own affair."""
    before = tools.now()
    facts = await windows.asked(gaze, connection, connection.root, _programs(connection))
    if isinstance(facts, Diagnosis):
        return (facts,)
    return (
        windows.powershell(facts),
        *windows.place(facts, connection.root, target, tools),
        windows.clock(facts, before, tools),
        *_commands(connection, facts["lacking"]),
    )


def _named(connection: Connection) -> dict[str, str]:
    """Field -> program."""
    fields = ("version", "deploy", "remove", "restart", "health")
    return {name: argv[0] for name in fields if (argv := getattr(connection, name)) is not None}


def _programs(connection: Connection) -> list[str]:
    return sorted(set(_named(connection).values()))


def _commands(connection: Connection, lacking: list[str]) -> tuple[Diagnosis, ...]:
    found = []
    for name, program in _named(connection).items():
        if program in lacking:
            remedy = f"install it on the target and make it executable, or mend `{name}`"
            found.append(missing(name, f"{program} is no program that can be run on the target", remedy))
        else:
            found.append(ok(name, f"{program} can be run"))
    return tuple(found)
