"""How a Windows host is reached, and where its releases come from, as a target's document says it."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from drivers.process.connection import Artifacts, ip_address
from drivers.winrm.connection import WindowsReach

_DIRECTORY: Final = re.compile(r"[A-Za-z]:(?:\\[^\\/:*?\"<>|\0-\x1f]+)+")


def absolute_directory(text: str) -> str:
    if not _DIRECTORY.fullmatch(text) or {".", ".."} & set(text.split("\\")) or len(text) > 120:
        raise ValueError(
            r"expected a directory below a drive, C:\holdfast\web, of at most 120 letters, without . and .."
        )
    return text


class Connection(WindowsReach):
    """One directory of one Windows host. Several targets may share a host, each with a root of its own."""

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

    @model_validator(mode="after")
    def _is_far(self) -> Connection:
        if self.via == "local":
            raise ValueError("via: expected winrm or ssh, Windows is always another machine")
        return self
