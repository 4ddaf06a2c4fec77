"""How a Docker engine is reached, as a target's document says it. No SDK is imported here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from desired_state.secrets import SecretFile
from drivers.fields import AbsolutePath
from drivers.ssh.connection import Reach

SOCKET: Final = "unix:///var/run/docker.sock"
SECRETS: Final = "/run/holdfast"

_UNIX = re.compile(r"unix:///[^\0?#]{1,100}")
_SSH = re.compile(
    r"ssh://(?P<user>[^@/\s]+)@(?P<host>[^@/\s\[\]:]+|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^\0?#]+)?"
)
_TCP = re.compile(r"tcp://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")


def _engine(text: str) -> str:
    tcp = _TCP.fullmatch(text)
    if _UNIX.fullmatch(text) or (tcp and 0 < int(tcp["port"]) < 65536):
        return text
    if text.startswith("npipe:"):
        raise ValueError(
            "a named pipe is open on its own Windows alone: let that engine listen at tcp://host:2376 with TLS"
        )
    raise ValueError("expected unix:///path/of/docker.sock, tcp://host:port or ssh://user@host")


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("expected a host name or an IP address, without port")
    return text


class Tls(BaseModel):
    """Files in PEM: the authority that signed the engine's certificate, and our own certificate with its key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ca: AbsolutePath
    cert: AbsolutePath
    key: AbsolutePath


class Connection(Reach):
    """One Docker engine, of this machine, behind TLS, or behind SSH, where its own socket is spoken to and nothing else
    is needed. Targets with equal connections share one client, and one list call per look."""

    engine: Annotated[str, AfterValidator(_engine)] = Field(
        default=SOCKET,
        description="unix:///path/of/docker.sock, on the host where via is ssh; tcp://host:port together with tls; or "
        "ssh://user@host, which says via, user, host and port in one",
    )
    tls: Tls | None = Field(default=None, description="client certificate for tcp://")
    address: Annotated[str, AfterValidator(_host)] | None = Field(
        default=None,
        description="where published ports are asked for health; without it, containers of a unix:// engine are "
        "asked at their own address, from its own host, and those of a tcp:// engine at its host",
    )

    secrets_directory: AbsolutePath = Field(
        default=SECRETS,
        description="on the engine's host, in memory (a tmpfs), for secrets that are declared as files",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, said: Any) -> Any:
        """ssh://user@host as the fields that it stands for."""
        found = _SSH.fullmatch(str(said.get("engine"))) if isinstance(said, Mapping) else None
        if found is None:
            return said
        words = {"via": "ssh", "user": found["user"], "host": found["host"].strip("[]")}
        words |= {"port": int(found["port"])} if found["port"] else {}
        twice = sorted(name for name, value in words.items() if said.get(name, value) != value)
        if twice:
            raise ValueError(f"{twice[0]} is said twice, and otherwise in engine")
        return {**said, **words, "engine": f"unix://{found['path']}" if found["path"] else SOCKET}

    @model_validator(mode="after")
    def _tls_fits(self) -> Connection:
        if self.local and self.tls is not None:
            raise ValueError("tls is for tcp:// engines only")
        if not self.local and self.via == "ssh":
            raise ValueError("engine: over SSH, the engine's unix:// socket on the host is spoken to")
        if not self.local and self.tls is None:
            raise ValueError("tcp:// needs tls: whoever reaches a plain engine port is root on its host")
        return self

    def secret_refused(self, file: SecretFile) -> str | None:
        """A container has it wherever it is declared."""
        return None

    @property
    def local(self) -> bool:
        return self.engine.startswith("unix://")

    @property
    def published_at(self) -> str | None:
        """The host whose published ports are asked; None: containers are asked at their own address."""
        if self.address is not None or self.local:
            return self.address
        found = _TCP.fullmatch(self.engine)
        assert found is not None
        return found["host"].strip("[]")
