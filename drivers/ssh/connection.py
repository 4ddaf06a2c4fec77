"""How a host is reached over SSH, as a target's document says it. No SDK is imported here."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from desired_state import scalars
from desired_state.secrets import SecretRef
from drivers.fields import AbsolutePath

AGENT_VARIABLE: Final = "SSH_AUTH_SOCK"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?:%[A-Za-z0-9._-]+)?")
_USER = re.compile(r"[^\s\0-\x1f\x7f:/][^\s\0-\x1f\x7f:/]{0,63}")
_PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}(?: .*)?")


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("expected a host name or an IP address, without port")
    return text


def _user(text: str) -> str:
    if not _USER.fullmatch(text) or text.startswith("-"):
        raise ValueError("expected the name of a user on the host")
    return text


def _known_line(text: str) -> str:
    words = text.split()
    if "\n" in text or len(words) < 2 or not _PUBLIC_KEY.search(text):
        raise ValueError("expected a line of known_hosts, or a public key alone")
    return text


def _public_key(text: str) -> str:
    if not _PUBLIC_KEY.fullmatch(text):
        raise ValueError("expected a public key: its type and its base64")
    return text


def _duration(text: str) -> str:
    scalars.duration(text)
    return text


Host = Annotated[str, AfterValidator(_host)]
User = Annotated[str, AfterValidator(_user)]
Port = Annotated[int, Field(ge=1, le=65535)]
Duration = Annotated[str, AfterValidator(_duration)]
Lines = Annotated[tuple[Annotated[str, AfterValidator(_known_line)], ...], Field(strict=False, min_length=1)]
Keys = Annotated[tuple[Annotated[str, AfterValidator(_public_key)], ...], Field(strict=False, min_length=1)]
PLAIN: Final = ConfigDict(frozen=True, extra="forbid", strict=True)


class Secret(BaseModel):
    """A value that is kept elsewhere."""

    model_config = PLAIN

    secret: scalars.Secret
    version: str | None = None

    @property
    def reference(self) -> SecretRef:
        return SecretRef(reference=self.secret, version=self.version)


class Hop(BaseModel):
    """One host, who we are there, and by what it is known."""

    model_config = PLAIN

    host: Host
    port: Port = 22
    user: User
    key: Secret | None = None
    passphrase: Secret | None = None
    certificate: Secret | None = None
    agent: Literal[True] | AbsolutePath | None = None
    known_hosts: AbsolutePath | Lines | None = None
    host_ca: Keys | None = None

    @model_validator(mode="after")
    def _fits(self) -> Hop:
        if self.key is None and self.agent is None:
            raise ValueError("key or agent is needed: passwords are not sent")
        if self.key is None and (self.passphrase is not None or self.certificate is not None):
            raise ValueError("passphrase and certificate belong to a key, and none is given")
        if self.known_hosts is None and self.host_ca is None:
            raise ValueError("known_hosts or host_ca is needed: a host that nothing vouches for is not spoken to")
        return self

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + ("" if self.port == 22 else f":{self.port}")


class Ssh(Hop):
    """A host with the way there and how long anything may take. Equal ones share one connection."""

    jump: Annotated[tuple[Hop, ...], Field(strict=False)] = ()
    connect_timeout: Duration = "10s"
    command_timeout: Duration = "30s"
    keepalive: Duration = "15s"
    idle: Duration = "10m"

    @cached_property
    def gate(self) -> Ssh | None:
        """The jump host next to this one, and how it is reached in turn: a host like any other, with one connection
        for all that lie behind it."""
        if not self.jump:
            return None
        last = {name: getattr(self.jump[-1], name) for name in Hop.model_fields}
        patience = {name: getattr(self, name) for name in ("connect_timeout", "command_timeout", "keepalive", "idle")}
        return Ssh(**last, **patience, jump=self.jump[:-1])

    @cached_property
    def connects_within(self) -> float:
        return _seconds(self.connect_timeout)

    @cached_property
    def answers_within(self) -> float:
        return _seconds(self.command_timeout)

    @cached_property
    def beats_every(self) -> float:
        return _seconds(self.keepalive)

    @cached_property
    def closes_after(self) -> float:
        return _seconds(self.idle)


def _seconds(text: str) -> float:
    found: timedelta = scalars.duration(text)
    return found.total_seconds()


class Reach(BaseModel):
    """The part of a connection that says how its host is reached: not at all, over SSH, or by an agent on it, for which
    everything else is as it is for a host that is not reached at all."""

    model_config = PLAIN

    via: Literal["local", "ssh", "agent"] = "local"
    host: Host | None = Field(default=None, description="name or address of the host, for via: ssh")
    port: Port | None = Field(default=None, description="port of its sshd, 22 where none is said")
    user: User | None = Field(default=None, description="who we are there")
    key: Secret | None = Field(default=None, description="our private key, {secret: …}")
    passphrase: Secret | None = Field(default=None, description="what the private key is encrypted with")
    certificate: Secret | None = Field(default=None, description="the certificate that goes with the key")
    agent: Literal[True] | AbsolutePath | None = Field(
        default=None, description=f"the socket of an agent that holds our keys; true for the one in {AGENT_VARIABLE}"
    )
    known_hosts: AbsolutePath | Lines | None = Field(
        default=None,
        description="by what the host is known: a known_hosts file on the machine of the daemon, or its lines; a line "
        "that is a public key alone means this host",
    )
    host_ca: Keys | None = Field(
        default=None, description="public keys of authorities whose host certificates are believed"
    )
    jump: Annotated[tuple[Hop, ...], Field(strict=False)] = Field(
        default=(), description="hosts to go through, the first one first, each with all that is said of a host"
    )
    connect_timeout: Duration | None = Field(default=None, description="until a connection stands, 10s by itself")
    command_timeout: Duration | None = Field(default=None, description="for one answer of the host, 30s by itself")
    keepalive: Duration | None = Field(default=None, description="between two signs of life, 15s by itself")
    idle: Duration | None = Field(default=None, description="after which an unused connection is closed, 10m by itself")

    @field_validator("via", mode="before")
    @classmethod
    def _leads_there(cls, via: object) -> object:
        known = get_args(cls.model_fields["via"].annotation)
        if via == "winrm" and via not in known:
            raise ValueError("Windows behind WinRM is for the drivers windows and script")
        if via == "agent" and via not in known:
            raise ValueError("agents are for hosts that run Linux; Windows is reached over winrm or ssh")
        return via

    @model_validator(mode="after")
    def _reach_fits(self) -> Reach:
        if self.via != "ssh":
            said = [name for name in _OF_SSH if getattr(self, name)]
            if said:
                raise ValueError(f"{said[0]} is for via: ssh only")
        else:
            _ = self.ssh
        return self

    @cached_property
    def ssh(self) -> Ssh | None:
        """The host to be reached over SSH; None for this machine."""
        if self.via != "ssh":
            return None
        said = {name: value for name in _OF_SSH if (value := getattr(self, name)) is not None}
        try:
            return Ssh(**said)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            raise ValueError(f"{place} {reason(first)}".strip()) from None


def reason(failed: ErrorDetails) -> str:
    """What is wrong, in the words of whoever has found it."""
    if failed["type"] == "missing":
        return "is needed for via: ssh"
    return str(failed.get("ctx", {}).get("error", failed["msg"]))


_OF_SSH: Final = tuple(name for name in Reach.model_fields if name != "via")
