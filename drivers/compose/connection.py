"""How a compose project is reached, what it looks like, and where its files stand, as a target's document says it. No
SDK is imported here."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from desired_state.secrets import SecretFile
from drivers.compose.template import Inside, Template
from drivers.docker import connection as docker
from drivers.fields import AbsolutePath
from drivers.process.connection import HOOKS, Python
from drivers.ssh.connection import Reach

_UNIX: Final = re.compile(r"unix:///[^\0?#]{1,100}")


def _engine(text: str) -> str:
    if not _UNIX.fullmatch(text):
        raise ValueError("expected unix:///path/of/docker.sock")
    return text


def _root(text: str) -> str:
    parts = text.split("/")
    if not text.startswith("/") or "\0" in text or {".", ".."} & set(parts) or not any(parts):
        raise ValueError("expected an absolute directory below /, without . and ..")
    return text


def _program(text: str) -> str:
    if not text or "\0" in text or text.startswith("-"):
        raise ValueError("expected the name of a program or its path")
    return text


class Connection(Reach):
    """One compose project on one engine, of this machine or of a host that is reached over SSH: the services of one
    target."""

    engine: Annotated[str, AfterValidator(_engine)] = Field(
        default=docker.SOCKET, description="unix:///path/of/docker.sock, on the host where via is ssh"
    )
    root: Annotated[str, AfterValidator(_root)] = Field(
        description="absolute directory on the engine's host for lock files, records and stickers; targets may share it"
    )
    template: Template = Field(description="how the services run, in the words of a compose file")
    host_mounts: tuple[Inside, ...] = Field(
        default=(),
        strict=False,
        description="directories of the host that services may mount, with what is below; without it, none",
    )
    program: Annotated[str, AfterValidator(_program)] | None = Field(
        default=None,
        description="the compose program of the engine's host; without it docker compose, or else docker-compose",
    )
    secrets_directory: AbsolutePath = Field(
        default=docker.SECRETS,
        description="on the engine's host, in memory (a tmpfs), for secrets that are declared as files",
    )
    python: Python = Field(default="python3", description="Python 3.8 or newer on the host, for via: ssh")
    hooks: bool = Field(default=False, description=HOOKS)

    @model_validator(mode="after")
    def _host_mounts_are_allowed(self) -> Connection:
        for name, service in self.template.services.items():
            for index, mount in enumerate(service.volumes):
                if mount.type == "bind" and not self.may_mount(mount.source):
                    where = f"template.services.{name}.volumes[{index}]"
                    raise ValueError(f"expected {mount.source[:80]} of {where} in host_mounts: no host mount else")
        return self

    def may_mount(self, source: str) -> bool:
        """Whether a service may mount this directory of the host."""
        return any(source == allowed or source.startswith(allowed.rstrip("/") + "/") for allowed in self.host_mounts)

    def template_of(self, component: str) -> str | None:
        """What the template says of one component, as canonical text; None when it has no such service. It is part of
        the component's configuration, so that another template is another configuration, and goes back with it."""
        part = self.template.part(component)
        return None if part is None else part.text

    @cached_property
    def reached(self) -> docker.Connection:
        """The engine, for whoever speaks to it."""
        way = {name: getattr(self, name) for name in (*Reach.model_fields, "engine", "secrets_directory")}
        return docker.Connection.model_construct(**way, tls=None, address=None)

    def secret_refused(self, file: SecretFile) -> str | None:
        """A service has it wherever it is declared."""
        return None
