"""What a host lets its agent do, in a file of its own that nobody reaches from elsewhere.

apiVersion: holdfast/v1
kind: Agent
state: /var/lib/holdfast-agent
kinds: [docker]
commands:
  reload: {argv: [/usr/sbin/nginx, -s, "{0}"], arguments: ["reload|reopen"]}
uploads:
  pages: {directory: /srv/www/pages, largest: 64Ki}

Commands and uploads are off unless they are named here, and what is asked is never a path or a program.
"""

from __future__ import annotations

import re
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from desired_state import scalars, strict, translation
from desired_state.findings import Notes
from desired_state.secrets import GRAMMARS
from drivers import registry
from stickers import names

FILE: Final = Path("/etc/holdfast-agent.yaml")
STATE: Final = "/var/lib/holdfast-agent"
SHOWN: Final = 20  # findings
LARGEST_FILE: Final = 512 * 1024  # bytes of one file that is sent
LOCAL_BACKENDS: Final = tuple(GRAMMARS)

_PLACE: Final = re.compile(r"\{(0|[1-9][0-9]?)\}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SERVER: Final = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?|https://\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?")
_PROXY: Final = re.compile(r"https?://[A-Za-z0-9.-]+:[0-9]{1,5}|https?://\[[0-9a-fA-F:]+\]:[0-9]{1,5}")


class BadSettings(ValueError):
    """The host's file cannot be used; the text says where it is wrong and what would be right."""


def _absolute(text: str) -> str:
    parts = text.split("/")
    if not text.startswith("/") or "\0" in text or {".", ".."} & set(parts) or not any(parts):
        raise ValueError("expected an absolute path below /, without . and ..")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError("expected the name of a variable: letters, digits and _, not beginning with a digit")
    return text


def _program(words: list[str]) -> list[str]:
    if not words or not words[0].startswith("/") or any("\0" in word for word in words):
        raise ValueError("expected a list of words, the first of them the absolute path of a program")
    return words


def _backend(text: str) -> str:
    if text not in LOCAL_BACKENDS:
        raise ValueError(f"expected one of {', '.join(LOCAL_BACKENDS)}")
    return text


def _kind(text: str) -> str:
    known = registry.kinds()
    if text not in known:
        nearest = next(iter(get_close_matches(text, known, n=1, cutoff=0.5)), None)
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise ValueError(f"expected one of {', '.join(known)}{hint}")
    return text


def _server(text: str) -> str:
    if not _SERVER.fullmatch(text):
        raise ValueError("expected https://host or https://host:port")
    return text


def _proxy(text: str) -> str:
    if not _PROXY.fullmatch(text):
        raise ValueError("expected http://host:port or https://host:port, without a name and a password in it")
    return text


def _mode(text: str) -> str:
    if not re.fullmatch(r"0[0-7]{3}", text):
        raise ValueError('expected a mode in quotes, such as "0644": no set-id bits')
    return text


def _file_size(value: object) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,8})(|Ki|Mi)", str(value))
    size = int(found[1]) * {"": 1, "Ki": 1 << 10, "Mi": 1 << 20}[found[2]] if found else 0
    if not 0 < size <= LARGEST_FILE:
        raise ValueError("expected a size such as 100, 64Ki or 512Ki, at most 512Ki: more does not travel with a task")
    return size


def _repository(text: str) -> str:
    if not names.REPOSITORY.fullmatch(text):
        raise ValueError(f"expected {names.REPOSITORY_RULE}")
    return text


Name = Annotated[str, AfterValidator(names.name)]
Absolute = Annotated[str, AfterValidator(_absolute)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Command(Strict):
    """One program. `{0}` as a word of its own stands for the first argument that is sent, which must be wholly what the
    first pattern describes; there are as many arguments as patterns."""

    argv: Annotated[list[str], AfterValidator(_program)] = Field(description="words; {0} is the first argument")
    arguments: list[Annotated[str, AfterValidator(_pattern)]] = Field(
        default_factory=list, description="a regular expression for each argument"
    )
    within: scalars.Duration = timedelta(minutes=1)
    environment: dict[Annotated[str, AfterValidator(_variable)], str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Command:
        if _PLACE.search(self.argv[0]):
            raise ValueError("expected a program that no argument chooses")
        for word in self.argv:
            found = _PLACE.fullmatch(word)
            if found and int(found[1]) >= len(self.arguments):
                raise ValueError(f"expected a pattern among arguments for {word} of argv")
        return self

    def refused(self, arguments: tuple[str, ...]) -> str | None:
        """Why these arguments are not let through; None when they are."""
        if len(arguments) != len(self.arguments):
            return f"it takes {len(self.arguments)} arguments, and {len(arguments)} were sent"
        for number, (pattern, argument) in enumerate(zip(self.arguments, arguments, strict=True)):
            if "\0" in argument or not re.fullmatch(pattern, argument):
                return f"argument {number} is not what {pattern!r} describes"
        return None

    def filled(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """The words with the arguments in their places."""
        found = ((word, _PLACE.fullmatch(word)) for word in self.argv)
        return tuple(arguments[int(place[1])] if place else word for word, place in found)


class UploadTo(Strict):
    """One directory that files may be put into, by names below it."""

    directory: Absolute
    largest: Annotated[int, PlainValidator(_file_size)] = Field(default=64 << 10, description="of one file")
    mode: Annotated[str, AfterValidator(_mode)] = Field(default="0644", description="the widest that a file may have")

    @property
    def bits(self) -> int:
        return int(self.mode, 8)


class UpgradeFrom(Strict):
    """Where new versions of the agent itself come from, and where they are kept."""

    directory: Absolute = Field(description="holds one directory a version, and the link current to the one that runs")
    repository: Annotated[str, AfterValidator(_repository)] = Field(
        description="the only repository that is fetched from, without a tag"
    )
    artifacts: str = Field(default="registry", description="registry, oci:/path of an OCI layout or tar:/path of one")
    within: scalars.Duration = timedelta(minutes=2)


class Settings(Strict):
    apiVersion: Literal["holdfast/v1"] = "holdfast/v1"  # noqa: N815 - as it is written
    kind: Literal["Agent"] = "Agent"
    state: Absolute = STATE
    kinds: list[Annotated[str, AfterValidator(_kind)]] = Field(
        default_factory=list, description="runtimes that may be worked with here"
    )
    commands: dict[Name, Command] = Field(default_factory=dict)
    uploads: dict[Name, UploadTo] = Field(default_factory=dict)
    resolves: list[Annotated[str, AfterValidator(_backend)]] = Field(
        default_factory=list, description="backends of secrets that this host asks itself"
    )
    servers: list[Annotated[str, AfterValidator(_server)]] = Field(
        default_factory=list, description="beside those that the join and each server tell"
    )
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    way: Literal["auto", "websocket", "polling"] = Field(
        default="auto", description="how servers are spoken with; auto is a WebSocket, and polls where none passes"
    )
    upgrade: UpgradeFrom | None = None
    at_once: Annotated[int, Field(ge=1, le=64)] = Field(default=4, description="tasks that are carried out together")
    hooks: bool = Field(default=False, description="hooks that say where: target may run on this host")

    @property
    def folder(self) -> Path:
        return Path(self.state)


def read(path: Path) -> Settings:
    """What the file says. Raises `BadSettings` with everything that is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}") from None
    notes = Notes()
    documents = strict.read(str(path), content, notes)
    found = [translation.read(document, Settings, notes) for document in documents]
    if findings := notes.sorted():
        raise BadSettings("; ".join(map(str, findings[:SHOWN])))
    if len(found) != 1 or found[0] is None:
        raise BadSettings(f"{path}: found {len(found)} documents; expected one of kind Agent")
    return found[0]
