"""Which commands deploy to a host, as a target's document says it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from desired_state import scalars
from drivers.process.connection import HOOKS, Python, absolute_directory, ip_address
from drivers.windows.connection import absolute_directory as windows_directory
from drivers.winrm.connection import WindowsReach

_WINDOWS_PROGRAM: Final = re.compile(r"[A-Za-z]:\\")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _argv(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or any("\0" in word for word in words):
        raise ValueError("expected a list of words, the first of them the absolute path of a program")
    return words


def _program(word: str, *, windows: bool) -> None:
    if not (_WINDOWS_PROGRAM.match(word) and '"' not in word if windows else word.startswith("/")):
        raise ValueError("expected a list of words, the first of them the absolute path of a program")
    if windows and word.lower().endswith((".bat", ".cmd")):
        raise ValueError("a batch file has its words read by a shell: name a program, powershell.exe with -File too")


def _inputs(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name) or name.startswith("HOLDFAST_") or "\0" in value:
            raise ValueError(f"{name[:40]!r} is not a variable that can be given to commands")
    return values


def _within(text: str) -> str:
    if not timedelta(0) < scalars.duration(text) <= timedelta(days=1):
        raise ValueError("expected a duration of at most a day")
    return text


Argv = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_argv)]


class Connection(WindowsReach):
    """One directory of one host, this one, one behind SSH, one with an agent or a Windows host behind WinRM, and the
    commands that are run there. Several targets may share a host."""

    via: Literal["local", "ssh", "winrm", "agent"] = "local"  # type: ignore[assignment]
    root: str = Field(description="absolute directory on the target that belongs to this target alone")
    version: Argv = Field(description="tells what stands, as JSON")
    deploy: Argv = Field(description="makes what its standard input describes, again and again")
    remove: Argv = Field(description="takes the workload away")
    restart: Argv | None = Field(default=None, description="stops and starts; without it, deploy is run again")
    health: Argv | None = Field(default=None, description="exits 0 when the workload is well")
    inputs: Annotated[dict[str, str], AfterValidator(_inputs)] = Field(
        default_factory=dict, description="variables that every command is given"
    )
    within: Annotated[str, AfterValidator(_within)] = Field(
        default="10m", description="the longest that deploy, restart and remove may take"
    )
    address: Annotated[str, AfterValidator(ip_address)] = Field(
        default="127.0.0.1", description="IP address of the target at which health is asked, as it knows it itself"
    )
    python: Python = Field(default="python3", description="Python 3.8 or newer on the target, for via: ssh")
    hooks: bool = Field(default=False, description=HOOKS)

    @field_validator("root")
    @classmethod
    def _fits_its_host(cls, root: str, info: ValidationInfo) -> str:
        return windows_directory(root) if info.data.get("via") == "winrm" else absolute_directory(root)

    @field_validator("version", "deploy", "remove", "restart", "health")
    @classmethod
    def _is_a_program(cls, argv: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if argv is not None:
            _program(argv[0], windows=info.data.get("via") == "winrm")
        return argv

    @field_validator("hooks")
    @classmethod
    def _has_hooks(cls, hooks: bool, info: ValidationInfo) -> bool:
        if hooks and info.data.get("via") == "winrm":
            raise ValueError("hooks are not run on a Windows host: where: daemon runs them beside the daemon")
        return hooks

    @property
    def seconds(self) -> float:
        return scalars.duration(self.within).total_seconds()
