"""How a plain host is reached, and where its releases come from, as a target's document says it."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from desired_state.secrets import SecretFile
from drivers.ssh.connection import Reach

_ARTIFACTS = re.compile(r"registry|(?:oci|tar):(?P<path>/.+)", re.DOTALL)


def absolute_directory(text: str) -> str:
    parts = text.split("/")
    if not text.startswith("/") or "\0" in text or {".", ".."} & set(parts) or not any(parts):
        raise ValueError("expected an absolute directory below /, without . and ..")
    return text


def _artifacts(text: str) -> str:
    if not _ARTIFACTS.fullmatch(text) or "\0" in text:
        raise ValueError("expected oci:/path of an OCI layout, tar:/path of a tar of one, or registry")
    return text


def ip_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("expected an IP address, without port") from None


def _python(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("expected a program name or its path")
    return text


Artifacts = Annotated[str, AfterValidator(_artifacts)]
HOOKS: Final = (
    "true: hooks that say where: target may run on this host, as whoever Holdfast is there; the daemon's setting "
    "HOLDFAST_HOOKS must let them, too"
)
Python = Annotated[str, AfterValidator(_python)]


class Connection(Reach):
    """One directory of one host, this one or one that is reached over SSH. Several targets may share a host, each with
    a root of its own."""

    root: Annotated[str, AfterValidator(absolute_directory)] = Field(
        description="absolute directory on the target that belongs to this target alone"
    )
    artifacts: Artifacts = Field(
        default="registry",
        description="where the daemon takes the bytes from: oci:/path of an OCI layout, tar:/path of a tar of one, or "
        "registry",
    )
    address: Annotated[str, AfterValidator(ip_address)] = Field(
        default="127.0.0.1", description="IP address at which health is asked, as the target itself knows it"
    )
    python: Python = Field(default="python3", description="Python 3.8 or newer on the target, for the supervisor")
    hooks: bool = Field(default=False, description=HOOKS)

    def secret_refused(self, file: SecretFile) -> str | None:
        """A program has it where its keeper puts it."""
        return None if file.path is None else f"no path: a program finds it as $CREDENTIALS_DIRECTORY/{file.name}"
