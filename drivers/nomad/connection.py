"""Which job of which Nomad cluster a target is, as its document says it. No SDK is imported here."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from desired_state.schema import SecretReference
from desired_state.secrets import SecretRef
from drivers.fields import AbsolutePath, Component

_WORD: Final = re.compile(r"[A-Za-z0-9-]{1,128}")
_JOB: Final = re.compile(r"[A-Za-z0-9_~-]+(?:/[A-Za-z0-9_~-]+)*")  # what may stand in the path of a Variable
_TASK: Final = re.compile(r"[^/\0]{1,128}/[^/\0]{1,128}")


def _address(text: str) -> str:
    parts = urlsplit(text)
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    if not safe or not parts.hostname or parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError("expected https://host:4646, or http:// on loopback: a token is sent with every request")
    return text.rstrip("/")


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError("expected letters, digits and hyphens, at most 128")
    return text


def _job(text: str) -> str:
    if not _JOB.fullmatch(text) or len(text) > 64:
        raise ValueError("expected letters, digits and - _ ~ /, at most 64: the job's secrets are kept under its name")
    return text


def _template(text: str) -> str:
    if not text.endswith((".json", ".hcl", ".nomad")):
        raise ValueError("expected a file that ends in .json, .hcl or .nomad")
    return text


def _task(text: str) -> str:
    if not _TASK.fullmatch(text):
        raise ValueError("expected group/task, as the template names them")
    return text


class Tls(BaseModel):
    """Files in PEM: the authority that signed the servers' certificates, where the system does not know it, and our
    own certificate with its key, where the cluster asks for one. There is no switch to turn verification off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ca: AbsolutePath | None = None
    cert: AbsolutePath | None = None
    key: AbsolutePath | None = None

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        return self


class Place(NamedTuple):
    """Where a component runs in the job."""

    group: str
    task: str


class Access(NamedTuple):
    """How a cluster is reached; targets with equal access share one client."""

    address: str
    namespace: str
    region: str | None
    token: SecretRef | None
    tls: Tls | None


class Connection(BaseModel):
    """One job of one cluster, which belongs to this target alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: Annotated[str, AfterValidator(_address)] = Field(
        description="https://host:4646 of a server or agent, or http:// on loopback"
    )
    job: Annotated[str, AfterValidator(_job)] = Field(description="id of the job; it need not exist yet")
    namespace: Annotated[str, AfterValidator(_word)] = "default"
    region: Annotated[str, AfterValidator(_word)] | None = Field(
        default=None, description="where it is not the region of the server that is asked"
    )
    token: SecretReference | None = Field(default=None, description="an ACL token by secret reference")
    tls: Tls | None = Field(default=None, description="certificates for https://, beside the system's authorities")
    template: dict[str, Any] | None = Field(default=None, description="the job, in the terms of Nomad's JSON API")
    hcl: str | None = Field(default=None, min_length=1, description="the job as HCL, which the server parses")
    file: Annotated[AbsolutePath, AfterValidator(_template)] | None = Field(
        default=None, description="absolute path of a file with the job: .json, or .hcl or .nomad"
    )
    tasks: dict[Annotated[str, AfterValidator(_task)], Component] = Field(
        description="which task of the template runs which component: group/task: component", min_length=1
    )

    @model_validator(mode="after")
    def _fits(self) -> Connection:
        if sum(said is not None for said in (self.template, self.hcl, self.file)) != 1:
            raise ValueError("expected one of template, hcl and file")
        if self.tls is not None and not self.address.startswith("https://"):
            raise ValueError("tls is for https:// only")
        components = sorted(self.tasks.values())
        for one, other in itertools.pairwise(components):
            if one == other:
                raise ValueError(f"tasks: component {one} is given twice; one task runs one component")
        return self

    @property
    def access(self) -> Access:
        token = SecretRef(reference=self.token.secret, version=self.token.version) if self.token else None
        return Access(self.address, self.namespace, self.region, token, self.tls)

    @property
    def places(self) -> Mapping[str, Place]:
        """Component -> its place."""
        return {component: Place(*task.split("/")) for task, component in self.tasks.items()}
