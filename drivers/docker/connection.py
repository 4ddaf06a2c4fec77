"""How a Docker engine is reached, as a target's document says it. No SDK is imported here."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SOCKET: Final = "unix:///var/run/docker.sock"

_UNIX = re.compile(r"unix:///[^\0?#]{1,100}")
_TCP = re.compile(r"tcp://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")


def _engine(text: str) -> str:
    tcp = _TCP.fullmatch(text)
    if _UNIX.fullmatch(text) or (tcp and 0 < int(tcp["port"]) < 65536):
        return text
    raise ValueError("expected unix:///path/of/docker.sock or tcp://host:port")


def _path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("expected an absolute path")
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("expected a host name or an IP address, without port")
    return text


Path = Annotated[str, AfterValidator(_path)]


class Tls(BaseModel):
    """Files in PEM: the authority that signed the engine's certificate, and our own certificate with its key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ca: Path
    cert: Path
    key: Path


class Connection(BaseModel):
    """One Docker engine. Targets with equal connections share one client, and one list call per look."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    via: Literal["local"] = "local"
    engine: Annotated[str, AfterValidator(_engine)] = Field(
        default=SOCKET, description="unix:///path/of/docker.sock, or tcp://host:port together with tls"
    )
    tls: Tls | None = Field(default=None, description="client certificate for tcp://")
    address: Annotated[str, AfterValidator(_host)] | None = Field(
        default=None,
        description="where published ports are asked for health; without it, containers of a unix:// engine are "
        "asked at their own address, and those of a tcp:// engine at its host",
    )

    @model_validator(mode="after")
    def _tls_fits(self) -> Connection:
        if self.local and self.tls is not None:
            raise ValueError("tls is for tcp:// engines only")
        if not self.local and self.tls is None:
            raise ValueError("tcp:// needs tls: whoever reaches a plain engine port is root on its host")
        return self

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
