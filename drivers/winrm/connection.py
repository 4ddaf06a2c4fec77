"""How a Windows host is reached, as a target's document says it: over WinRM, or over SSH. No SDK is imported here."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from desired_state import scalars
from drivers.fields import AbsolutePath
from drivers.ssh.connection import PLAIN, Duration, Host, Port, Reach, Secret, Ssh, reason

HTTPS: Final = 5986
_ACCOUNT: Final = re.compile(r"[^\0-\x1f\x7f/:*?\"<>|]{1,256}")


def _account(text: str) -> str:
    if not _ACCOUNT.fullmatch(text):
        raise ValueError("expected an account: user, DOMAIN\\user or user@REALM")
    return text


Account = Annotated[str, AfterValidator(_account)]
M = TypeVar("M", bound=BaseModel)
Auth = Literal["ntlm", "kerberos", "certificate"]


class WinRm(BaseModel):
    """A host, who we are there, and by what it is believed. Equal ones share what is kept."""

    model_config = PLAIN

    host: Host
    port: Port = HTTPS
    auth: Auth = "ntlm"
    user: Account | None = None
    password: Secret | None = None
    certificate: Secret | None = None
    key: Secret | None = None
    ca: AbsolutePath | None = None
    message_encryption: bool = False
    connect_timeout: Duration = "10s"
    command_timeout: Duration = "30s"
    idle: Duration = "10m"

    @model_validator(mode="after")
    def _fits(self) -> WinRm:
        if self.auth == "certificate":
            if self.certificate is None or self.key is None:
                raise ValueError("certificate and key are needed for auth: certificate")
            if self.password is not None or self.message_encryption:
                raise ValueError("password and message_encryption are not for auth: certificate")
        elif self.certificate is not None or self.key is not None:
            raise ValueError("certificate and key are for auth: certificate only")
        elif self.auth == "ntlm" and (self.user is None or self.password is None):
            raise ValueError("user and password are needed for auth: ntlm")
        return self

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        name = f"winrm {host}" if self.user is None else f"winrm {self.user}@{host}"
        return name + ("" if self.port == HTTPS else f":{self.port}")

    @cached_property
    def connects_within(self) -> float:
        return _seconds(self.connect_timeout)

    @cached_property
    def answers_within(self) -> float:
        return _seconds(self.command_timeout)

    @cached_property
    def closes_after(self) -> float:
        return _seconds(self.idle)


def _seconds(text: str) -> float:
    return float(scalars.duration(text).total_seconds())


class WindowsReach(Reach):
    """The part of a connection that says how a Windows host is reached."""

    via: Literal["local", "ssh", "winrm"] = "winrm"  # type: ignore[assignment]  # one way more, and no agent
    user: Account | None = Field(default=None, description="who we are there: user, DOMAIN\\user or user@REALM")
    auth: Auth | None = Field(
        default=None, description="for via: winrm: ntlm, which it is by itself, kerberos or certificate"
    )
    password: Secret | None = Field(default=None, description="of the user, {secret: …}, for via: winrm")
    ca: AbsolutePath | None = Field(
        default=None,
        description="file of the authorities that may vouch for the host, for via: winrm; without it, those of the "
        "daemon's machine",
    )
    message_encryption: bool | None = Field(
        default=None, description="for via: winrm: seal each message within TLS too"
    )

    @model_validator(mode="after")
    def _reach_fits(self) -> WindowsReach:
        of_ours = {"ssh": _OF_SSH, "winrm": _OF_WINRM, "local": frozenset[str](), "agent": frozenset[str]()}[self.via]
        for name in sorted(_OF_SSH | _OF_WINRM):
            if getattr(self, name) and name not in of_ours:
                raise ValueError(f"{name} is not for via: {self.via}")
        _ = (self.ssh, self.winrm)
        return self

    @cached_property
    def ssh(self) -> Ssh | None:
        return self._read(Ssh, _OF_SSH) if self.via == "ssh" else None

    @cached_property
    def winrm(self) -> WinRm | None:
        return self._read(WinRm, _OF_WINRM) if self.via == "winrm" else None

    def _read(self, model: type[M], names: frozenset[str]) -> M:
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        try:
            return model(**said)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            why = f"is needed for via: {self.via}" if first["type"] == "missing" else reason(first)
            raise ValueError(f"{place} {why}".strip()) from None


_OF_SSH: Final = frozenset(Reach.model_fields) - {"via"}
_OF_WINRM: Final = frozenset(WinRm.model_fields)
