"""What a placement means to Windows, as plain data: a service, its command line and its environment, and what is
declared that Windows cannot give. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from desired_state.health import CommandCheck
from desired_state.model import Configuration, Placement
from drivers.errors import InvalidAction
from drivers.process.render import beyond_a_host, folder, secrets
from stickers.names import InstallationId, PlacementId, TargetId

ACCOUNTS: Final = {
    "LocalService": r"NT AUTHORITY\LocalService",
    "NetworkService": r"NT AUTHORITY\NetworkService",
    "LocalSystem": "LocalSystem",
}
LEAST: Final = "LocalService"  # the account of a service for which none is declared
DEVICES: Final = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}
LONGEST_LINE: Final = 8000  # letters; what the registry keeps of a service may be longer, what reads it not


def unsupported(placement: Placement) -> tuple[str, ...]:
    """Sentences: what would not be enforced, or not arrive. Empty when everything would."""
    return tuple(_unsupported(placement, placement.configuration))


def _unsupported(placement: Placement, declared: Configuration) -> Iterator[str]:
    if str(placement.id.component).partition(".")[0] in DEVICES:
        yield f"component {placement.id.component}: Windows keeps that name for a device"
    yield from beyond_a_host(declared)
    if declared.memory is not None or declared.cpus is not None:
        yield "memory and cpus are not limited by a Windows service"
    if declared.user is not None and declared.user not in ACCOUNTS:
        yield f"user {declared.user[:40]!r}: expected {', '.join(ACCOUNTS)}, which have no password to keep"
    if any("\n" in value for _, value in declared.environment if isinstance(value, str)):
        yield "environment: a value has more than one line"
    names = [name.upper() for name, _ in declared.environment]
    if len(names) != len(set(names)):
        yield "environment: Windows takes variables for one whose names differ by case alone"
    check = placement.health.check if placement.health else None
    if check is not None and not isinstance(check, CommandCheck) and getattr(check, "tls", None) is not None:
        yield "health over TLS is not asked on Windows: declare a command, or plain HTTP"


# -- names -------------------------------------------------------------------------------------------------------------


def release(artifact: str, configuration: str) -> str:
    """Of one content there is one release, and one service."""
    return hashlib.sha256(f"{artifact}\n{configuration}".encode()).hexdigest()[:16]


def prefix(installation: str, target: str) -> str:
    """With which the services of one target begin, whoever else has some on that host."""
    return "holdfast-" + hashlib.sha256(f"{installation}\n{target}".encode()).hexdigest()[:12]


def service(installation: InstallationId, id: PlacementId, release: str) -> str:
    return f"{prefix(str(installation), str(id.target))}-{folder(id)}-{release}"


def place(id: PlacementId, installation: InstallationId, root: str) -> dict[str, Any]:
    """How a request to the helper names the placement."""
    return {"root": root, "installation": str(installation), "target": str(id.target), "folder": folder(id)}


def target(id: TargetId, installation: InstallationId, root: str) -> dict[str, Any]:
    services = prefix(str(installation), str(id))
    return {"root": root, "installation": str(installation), "target": str(id), "services": services}


# -- a service ---------------------------------------------------------------------------------------------------------


def account(declared: Mapping[str, Any]) -> str:
    return ACCOUNTS[declared.get("user") or LEAST]


def command_line(tree: str, words: Sequence[str]) -> str:
    """The program by its path below the tree, or by an absolute one, then the words it is told."""
    found = quoted([program(tree, words[0]), *words[1:]])
    if len(found) > LONGEST_LINE:
        raise InvalidAction(f"the command has {len(found)} letters, a service takes at most {LONGEST_LINE}")
    return found


def program(tree: str, word: str) -> str:
    path = word.replace("/", "\\")
    if '"' in path or ".." in path.split("\\"):
        raise InvalidAction(f"command: {word[:80]!r} is not the path of a program")
    if path.lower().endswith((".bat", ".cmd")):
        raise InvalidAction(f"command: {word[:80]!r} is a batch file, whose words a shell would read: name its program")
    return path if path[1:3] == ":\\" else f"{tree}\\{path.lstrip(chr(92))}"


def quoted(words: Sequence[str]) -> str:
    """One command line that programs take apart into exactly these words, after the rules of CommandLineToArgvW."""
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    if "\0" in word:
        raise InvalidAction("a word of the command contains NUL")
    if word and not any(letter in word for letter in ' \t\n\v"'):
        return word
    found, backslashes = ['"'], 0
    for letter in word:
        if letter == "\\":
            backslashes += 1
            continue
        found.append("\\" * (2 * backslashes + 1 if letter == '"' else backslashes) + letter)
        backslashes = 0
    return "".join([*found, "\\" * (2 * backslashes), '"'])


def environment(
    installation: str, id: PlacementId, directory: str, declared: Configuration, values: Mapping[str, str]
) -> list[str]:
    """NAME=value, as the registry keeps them; `values` are those of the secrets by name."""
    names = secrets(declared)
    known = {(reference.reference, reference.version): values[name] for name, reference in names.items()}
    found = {
        name: value if isinstance(value, str) else known[value.reference, value.version]
        for name, value in declared.environment
    }
    for name, value in found.items():
        if "\0" in value or "\n" in value:
            raise InvalidAction(f"environment {name[:40]}: its value has NUL or more than one line")
    ours = {"INSTALLATION": installation, "TARGET": str(id.target), "COMPONENT": str(id.component)}
    ours |= {"SLOT": str(id.slot), "DIRECTORY": directory}
    return [
        f"{name}={value}" for name, value in (found | {f"HOLDFAST_{name}": one for name, one in ours.items()}).items()
    ]
