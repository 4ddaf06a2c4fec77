"""What a systemd unit and its environment file say, as text. Pure, and in the Python 3.8 of the hosts on which it runs.

Three dialects meet here. A command line of a unit expands `%` and `$` and knows C escapes; other settings expand `%`
and know no quotes; an environment file expands nothing, and between double quotes a backslash takes the meaning from
`"`, `\\`, `` ` `` and `$` alone, while a line may simply end within the value.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

FORMAT = "holdfast.systemd/v1"
SECTION = "X-Holdfast"  # systemd skips sections that begin with X-
PREFIX = "holdfast-"
RESTARTS = {"never": "no", "on-failure": "on-failure", "unless-stopped": "always", "always": "always"}
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "%": "%%", "$": "$$"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLAIN = re.compile(r"/[A-Za-z0-9/._@+,:=-]*")


class Unfit(ValueError):
    """What no unit can say; the text names it and bears no value of the environment."""


class Marks(NamedTuple):
    """What tells that a unit is ours, and which one it is."""

    installation: str
    target: str
    component: str
    slot: str
    artifact: str
    configuration: str
    release: str  # the directory from which it runs


class Paths(NamedTuple):
    """Where the unit finds what it starts. `secrets` None: the release needs none."""

    program: str
    tree: str
    environment: str
    secrets: str | None
    files: str | None = None  # the directory of secrets that are handed over as files


def tag(path: str) -> str:
    """Stands for the whole path of a placement."""
    return hashlib.sha256(path.encode()).hexdigest()[:8]


def unit_name(folder: str, tag: str, release: str) -> str:
    """One unit to each release of a placement, so that the next one is ready before the last one ends. `tag` stands
    for the whole path of the placement: roots on one host do not share units."""
    return f"{PREFIX}{folder}-{tag}-{release}.service"


def unit(
    marks: Marks, paths: Paths, command: Sequence[str], declared: Mapping[str, Any], replaces: Sequence[str] = ()
) -> str:
    """The unit of one release. `declared` is its configuration as it is digested; `replaces` are units that must have
    ended before this one starts."""
    sections = (
        (SECTION, _marked(marks)),
        ("Unit", _conditions(marks, paths, replaces)),
        ("Service", _service(marks, paths, command, declared)),
        ("Install", [("WantedBy", "multi-user.target")]),
    )
    blocks = ["\n".join([f"[{name}]", *(f"{key}={value}" for key, value in lines)]) for name, lines in sections]
    return "# Written by holdfast; what is changed here by hand is put back.\n" + "\n\n".join(blocks) + "\n"


def _marked(marks: Marks) -> Iterator[tuple[str, str]]:
    yield "Format", FORMAT
    for key, value in zip(Marks._fields, marks):  # noqa: B905 - not in Python 3.8
        yield key.capitalize(), value


def _conditions(marks: Marks, paths: Paths, replaces: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Secrets do not outlive a boot, and a unit that waits for them is not a failed one."""
    yield "Description", f"{marks.component} of {marks.target}"
    yield "Wants", "network-online.target"
    yield "After", "network-online.target"
    yield "RequiresMountsFor", plain(marks.release)
    if paths.secrets is not None:
        yield "ConditionPathExists", plain(paths.secrets)
    if replaces:
        yield "Conflicts", " ".join(replaces)
        yield "After", " ".join(replaces)
    yield "StartLimitIntervalSec", "0"


def _service(
    marks: Marks, paths: Paths, command: Sequence[str], declared: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    yield "Type", "exec"
    yield "ExecStart", command_line(paths.program, command)
    yield "WorkingDirectory", plain(paths.tree)
    yield "EnvironmentFile", plain(paths.environment)
    if paths.secrets is not None:
        yield "EnvironmentFile", plain(paths.secrets)
    for file in declared.get("secrets", ()):
        yield "LoadCredential", "{}:{}/{}".format(file["name"], plain(paths.files or ""), file["name"])
    user, _, group = (declared.get("user") or "").partition(":")
    if user:
        yield "User", user
    if group:
        yield "Group", group
    yield "Restart", RESTARTS[declared["restart"]]
    yield "RestartSec", "1"
    yield "TimeoutStopSec", f"{max(1, declared['stop_grace'])}ms"  # nought would mean for ever
    if declared.get("memory"):
        yield "MemoryMax", str(declared["memory"])
    if declared.get("cpus"):
        yield "CPUQuota", f"{declared['cpus'] // 10}%"
    yield "LimitCORE", "0"
    yield "UMask", "0022"
    yield "SyslogIdentifier", marks.component


def command_line(program: str, command: Sequence[str]) -> str:
    """The program by its path, then the words it is told, its own name first. Only the words are expanded, so only
    they are escaped against it."""
    if any(letter in program for letter in "\"'\\") or not program.isprintable() or not program.startswith("/"):
        raise Unfit(f"systemd starts no program with quotes or control characters in its path: {program[:80]!r}")
    return " ".join(['@"{}"'.format(program.replace("%", "%%")), *map(_word, command)])


def _word(word: str) -> str:
    if "\0" in word:
        raise Unfit("a word of the command contains NUL")
    return '"{}"'.format("".join(ESCAPES.get(letter) or _letter(letter) for letter in word))


def _letter(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if ord(letter) < 32 or ord(letter) == 127 else letter


def plain(path: str) -> str:
    """A path in a setting that knows no quotes, and may know wildcards."""
    if not PLAIN.fullmatch(path):
        raise Unfit(f"units name only paths of letters, digits and /._@+,:=- : {path[:80]!r}")
    return path


def environment(values: Mapping[str, str]) -> str:
    """An environment file in systemd's own dialect."""
    for name, value in values.items():
        for sentence in unfit_variable(name, value):
            raise Unfit(sentence)
    return "".join(f'{name}="{_value(value)}"\n' for name, value in values.items())


def _value(value: str) -> str:
    return re.sub(r'([\\"`$])', r"\\\1", value)


def unfit_variable(name: str, value: str) -> Iterator[str]:
    """Sentences: why systemd would drop the variable with no more than a line in its journal."""
    if not NAME.fullmatch(name):
        yield f"environment {name[:40]!r}: systemd takes names of letters, digits and _ only"
    if any((ord(letter) < 32 and letter not in "\n\t\r") or ord(letter) == 127 for letter in value):
        yield f"environment {name[:40]}: systemd takes no value with control characters"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        yield f"environment {name[:40]}: its value is not text"


def replaced(text: str) -> list[str]:
    """The units that must have ended before this one starts."""
    return [name for line in text.splitlines() if line.startswith("Conflicts=") for name in line[10:].split()]


def marks(text: str) -> Mapping[str, str]:
    """The marks of a unit as a mapping, empty for one that is not ours."""
    found, ours = {}, False
    for line in text.splitlines():
        if line.startswith("["):
            ours = line.strip() == f"[{SECTION}]"
        elif ours and "=" in line:
            key, _, value = line.partition("=")
            found[key.strip().lower()] = value.strip()
    return found if found.pop("format", None) == FORMAT else {}
