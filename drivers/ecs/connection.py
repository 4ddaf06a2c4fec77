"""Which service of which cluster a target is, as its document says it. No SDK is imported here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from desired_state.schema import SecretReference
from drivers.fields import AbsolutePath, Component

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ARN: Final = re.compile(r"arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:(?P<kind>cluster|service)/(?P<name>[A-Za-z0-9/_-]+)")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")


def _cluster(text: str) -> str:
    found = _ARN.fullmatch(text)
    if not _NAME.fullmatch(text) and not (found and found["kind"] == "cluster"):
        raise ValueError("expected the name or the ARN of a cluster")
    return text


def _service(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("expected the name of a service: letters, digits, hyphens and underscores")
    return text


def _region(text: str) -> str:
    if not _REGION.fullmatch(text):
        raise ValueError("expected a region, such as eu-central-1")
    return text


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    if not safe or not parts.hostname or parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError("expected https://host, or http://host:port on loopback: requests are signed, not sealed")
    return text


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class Credentials(BaseModel):
    """An access key by reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    access_key_id: SecretReference
    secret_access_key: SecretReference
    session_token: SecretReference | None = None


class Connection(BaseModel):
    """One service of one cluster, which belongs to this target alone. The service exists: its network, load balancer
    and scaling are not ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cluster: Annotated[str, AfterValidator(_cluster)] = Field(description="name or ARN of the cluster")
    service: Annotated[str, AfterValidator(_service)] = Field(description="name of a service that exists there")
    region: Annotated[str, AfterValidator(_region)] = Field(description="such as eu-central-1")
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None, description="another endpoint than the region's own: https://, or http:// on loopback"
    )
    credentials: Credentials | None = Field(
        default=None, description="an access key by secret reference; without it, the SDK's own chain"
    )
    task_definition: dict[str, Any] | None = Field(
        default=None, description="template of the task definition, in the terms of RegisterTaskDefinition"
    )
    task_definition_file: AbsolutePath | None = Field(
        default=None, description="absolute path of a JSON file with that template"
    )
    containers: dict[Annotated[str, AfterValidator(_service)], Component] = Field(
        description="which container of the template runs which component", min_length=1
    )
    tasks: int = Field(default=1, ge=1, le=1000, description="how many tasks to run where the service is at none")
    rollout: int = Field(
        default=240, ge=1, le=3600, description="seconds that a rollout may take before health is asked regardless"
    )

    @model_validator(mode="after")
    def _one_template(self) -> Connection:
        if (self.task_definition is None) == (self.task_definition_file is None):
            raise ValueError("expected either task_definition or task_definition_file")
        components = list(self.containers.values())
        for one in components:
            if components.count(one) > 1:
                raise ValueError(f"containers: component {one} is given twice; one container runs one component")
        return self

    @property
    def container_of(self) -> Mapping[str, str]:
        """Component -> the name of its container."""
        return {component: container for container, component in self.containers.items()}
